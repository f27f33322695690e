"""Sweeps: what to train (`spec`), what is stored (`store`), what it costs (`costs`), and how trials run (`running`).

Only `running` imports Ray, only `tracking` MLflow, and only `store.bucket.objects` obstore.
"""

from dmf.machine.starting import starting

starting(__name__)
