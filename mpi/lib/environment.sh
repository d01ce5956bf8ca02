# shellcheck shell=bash
# Environment variables that every rank needs as on the first host.
# Sourced by ../hvdkit-mpirun.sh, which declares the variables.

readonly FORWARD_NAMES=(PATH LD_LIBRARY_PATH PYTHONPATH TF_DETERMINISTIC_OPS TF_CONFIG)
# Not TF_ alone: it is Terraform's as well, whose TF_VAR_ and TF_TOKEN_ hold secrets.
readonly FORWARD_PREFIXES=(
  HOROVOD_ HVDKIT_ NCCL_ OMP_ XLA_ KERAS_
  TF_CPP_ TF_NUM_ TF_GPU_ TF_CPU_ TF_FORCE_ TF_ENABLE_ TF_DISABLE_ TF_USE_ TF_XLA_ TF_CUDNN_
  TF_ONEDNN_ TF_SET_ONEDNN_ TF_AUTO_MIXED_ TF_DUMP_GRAPH_ TF_DATA_EXPERIMENT_
)

# TensorFlow's start-up log comes before hvdkit can silence it where a script imports it first.
quiet_tensorflow() {
  if [[ ${HVDKIT_LOG_LEVEL:-} != [Dd][Ee][Bb][Uu][Gg] ]]; then
    export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL-1}
  fi
}

# add_variable NAME or NAME=VALUE, as the option -x gives it.
add_variable() {
  local name=${1%%=*}
  [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] ||
    die "-x needs NAME or NAME=VALUE, not '$1'" "name a variable of the environment"
  if [[ $1 == *=* ]]; then
    export "${1?}"
  else
    [[ -n ${!name+set} ]] ||
      die "-x $name: there is no such variable in the environment" \
        "export it before, or give its value: -x $name=VALUE"
    # A variable of the shell is not in the environment of mpirun.
    export "${name?}"
  fi
  extra_names+=("$name")
}

# Names of the exported variables that the ranks need, one a line.
forwarded_names() {
  local name prefix
  {
    for name in "${FORWARD_NAMES[@]}"; do
      if [[ -n ${!name+set} ]]; then printf '%s\n' "$name"; fi
    done
    for prefix in "${FORWARD_PREFIXES[@]}"; do
      compgen -e "$prefix" || true
    done
    if ((${#extra_names[@]} > 0)); then printf '%s\n' "${extra_names[@]}"; fi
  } | awk '!seen[$0]++'
}
