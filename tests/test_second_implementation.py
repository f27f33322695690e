"""Our methods compared with those of easyfsl, an independent library. Its episodes come one at a time, with labels."""

from __future__ import annotations

import torch
from easyfsl.methods import FEAT as TheirFEAT
from easyfsl.methods import MatchingNetworks, PrototypicalNetworks, RelationNetworks
from easyfsl.modules import MultiHeadAttention
from torch import Tensor, nn

from dmf.methods.feat.model import FEAT
from dmf.methods.matching_net.model import MatchingNet
from dmf.methods.proto_net.model import ProtoNet
from dmf.methods.relation_net.model import RelationNet

N, K, Q, C = 4, 3, 9, 8
GENERATOR = torch.Generator().manual_seed(5)
LABELS = torch.arange(N).repeat_interleave(K)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


SUPPORT, QUERY = normal(N, K, C), normal(Q, C)


def theirs(model: nn.Module, support: Tensor, query: Tensor) -> Tensor:
    model.double().eval().process_support_set(support.flatten(0, 1), LABELS)
    with torch.no_grad():
        return model(query)


def test_proto_net_ranks_alike() -> None:
    """They take the distance, we its square."""
    model = ProtoNet(nn.Identity(), "sum").double()
    ours = model.score(SUPPORT[None, ..., None, None], QUERY[None, ..., None, None])[0]
    squared = -theirs(PrototypicalNetworks(nn.Identity()), SUPPORT, QUERY).square()
    torch.testing.assert_close(ours, squared, rtol=1e-9, atol=1e-9)


def test_feat_adapts_prototypes_alike() -> None:
    attention = MultiHeadAttention(1, C, C, C)
    reference = TheirFEAT(nn.Identity(), attention_module=attention)
    model = FEAT(nn.Identity(), C, temperature=1.0).double().eval()
    names = {"query": "w_qs", "key": "w_ks", "value": "w_vs", "output": "fc", "norm": "layer_norm"}
    state = attention.double().state_dict()
    model.attention.load_state_dict(
        {key: state[f"{names[key.partition('.')[0]]}.{key.partition('.')[2]}"] for key in model.attention.state_dict()}
    )
    distances = theirs(reference, SUPPORT, QUERY)
    with torch.no_grad():
        ours = model.score_embeddings(SUPPORT[None], QUERY[None])[0]
    torch.testing.assert_close(ours, -distances.square())


def test_matching_net_embeds_in_context_alike() -> None:
    """They do not normalise the query and have no relu, so only the embeddings are the same."""
    reference = MatchingNetworks(nn.Identity(), feature_dimension=C)
    model = MatchingNet(nn.Identity(), C).double().eval()
    model.support_lstm.load_state_dict(reference.double().support_features_encoder.state_dict())
    model.query_cell.load_state_dict(reference.query_features_encoding_cell.state_dict())
    with torch.no_grad():
        reference.process_support_set(SUPPORT.flatten(0, 1), LABELS)
        items = model.support_in_context(SUPPORT.flatten(0, 1)[None])
        torch.testing.assert_close(items[0], reference.contextualized_support_features)
        ours = model.query_in_context(QUERY[None], items)[0]
        torch.testing.assert_close(ours, reference.encode_query_features(QUERY))


def test_relation_net_scores_alike() -> None:
    """Their poolings are adaptive, and the second convolution is not padded; here they get ours."""
    reference = RelationNetworks(nn.Identity(), feature_dimension=C)
    first, second, *_, linear1, _, linear2, _ = reference.relation_module
    model = RelationNet(nn.Identity(), (C, 6, 6), momentum=1.0).double().eval()
    first[3], second[0].padding, second[3] = nn.MaxPool2d(2), (1, 1), nn.MaxPool2d(2)
    for ours, their in ((model.conv1, first[0]), (model.norm1, first[1]), (model.conv2, second[0])):
        ours.load_state_dict(their.state_dict())
    for ours, their in ((model.norm2, second[1]), (model.linear1, linear1), (model.linear2, linear2)):
        ours.load_state_dict(their.state_dict())
    support, query = normal(N, K, C, 6, 6), normal(Q, C, 6, 6)
    with torch.no_grad():
        ours = model.score(support[None], query[None])[0].sigmoid()
    torch.testing.assert_close(ours, theirs(reference, support, query))
