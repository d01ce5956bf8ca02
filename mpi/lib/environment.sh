# shellcheck shell=bash
# Environment variables that every rank needs as on the first host.
# Sourced by ../hvdkit-mpirun.sh, which declares the variables.

readonly FORWARD_NAMES=(PATH LD_LIBRARY_PATH PYTHONPATH)
readonly FORWARD_PREFIXES=(HOROVOD_ HVDKIT_ TF_ NCCL_ OMP_ XLA_ KERAS_)

# Names of the exported variables that the ranks need, one a line.
forwarded_names() {
  local name prefix
  for name in "${FORWARD_NAMES[@]}"; do
    if [[ -n ${!name+set} ]]; then printf '%s\n' "$name"; fi
  done
  for prefix in "${FORWARD_PREFIXES[@]}"; do
    compgen -e "$prefix" || true
  done
}
