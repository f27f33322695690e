#!/usr/bin/env bash
# Run a command with its own Slurm: slurmctld, two slurmd (nodes n1 and n2) and munged, all on this machine's
# loopback, in a temporary folder that is deleted at the end. Needs root and Debian's slurm-wlm and munge; does not
# touch their settings in /etc.
#
#   tests/slurm_on_loopback.sh sbatch --wait --nodes=2 deploy/slurm.sbatch SPEC --store STORE
set -euo pipefail

folder=$(mktemp -d /tmp/dmf-slurm-XXXXXX)
chmod 755 "$folder"
export SLURM_CONF=$folder/slurm.conf
started=()
stop() {
  trap '' TERM INT
  scancel --user=root >/dev/null 2>&1 || true
  for ((second = 0; second < 30; second++)); do
    [[ -n $(squeue --noheader 2>/dev/null) ]] || break
    sleep 1
  done
  for ((index = ${#started[@]} - 1; index >= 0; index--)); do
    kill "${started[index]}" 2>/dev/null || true
    wait "${started[index]}" 2>/dev/null || true
  done
  rm -rf "$folder"
}
trap stop EXIT
trap 'exit 143' TERM INT
free_port() { "${PYTHON:-python3}" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# Munge: its own key and socket. It requires folders that nobody else can write to.
mkdir -m 755 "$folder/munge"
head -c 128 /dev/urandom >"$folder/munge/key"
chmod 400 "$folder/munge/key"
munged --foreground --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
  --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" >"$folder/munged.log" 2>&1 &
started+=($!)

# No cgroups, which a container rarely has: /proc tells processes apart, and a node may run more than it declares.
cpus=${SLURM_CPUS:-4}
cat >"$SLURM_CONF" <<CONF
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
SlurmctldPort=$(free_port)
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
InactiveLimit=0
SchedulerParameters=sched_interval=1
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=$(free_port) CPUs=$cpus
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=$(free_port) CPUs=$cpus
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
mkdir "$folder/state"
slurmctld -D >"$folder/slurmctld.out" 2>&1 &
started+=($!)
for node in n1 n2; do
  slurmd -D -N "$node" >"$folder/slurmd-$node.out" 2>&1 &
  started+=($!)
done
for ((second = 0; ; second++)); do
  [[ $(sinfo --noheader --format=%D --states=idle 2>/dev/null) == 2 ]] && break
  ((second < 60)) || { cat "$folder"/munged.log "$folder"/*.out >&2; echo "Slurm does not start: see its logs above" >&2; exit 1; }
  sleep 1
done
"$@"
