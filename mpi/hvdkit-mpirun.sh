#!/usr/bin/env bash
# Start a Horovod job with mpirun: the right binding, environment and network
# options for Open MPI 4 and 5, MPICH (Hydra) and Intel MPI.
# See README.md in this folder for what each option does and why.
# shellcheck source-path=SCRIPTDIR/lib
set -euo pipefail

readonly PROG=hvdkit-mpirun

# What the command line says.
np=""
hosts_arg=""
hostfile=""
interface=""
bind=auto
cores_arg=""
launcher_arg=""
oversubscribe=no
dry_run=no
variables=()        # what -x names
command_line=()

# What is found out from it and from the machine.
launcher=""         # the mpirun or mpiexec to use
flavour=""          # openmpi4, openmpi5, mpich or intel
host_names=()       # empty: this machine, or what the scheduler gave
host_slots=()       # slots of each host, in the same order
slots_source=""     # for messages
max_local_ranks=0   # ranks on the fullest host
sockets=1           # of one host
cores_per_socket=1  # that this job may use
bind_mode=none      # none, core or numa
bind_cores=0        # cores of one rank when bind_mode is core
extra_names=()      # of variables that the ranks get because of -x
options=()          # what goes between mpirun and the command

note() { printf '%s: note: %s\n' "$PROG" "$1" >&2; }

# die WHAT REMEDY
die() {
  printf '%s: error: %s\n' "$PROG" "$1" >&2
  printf '%s: remedy: %s\n' "$PROG" "$2" >&2
  exit 2
}

# lib is beside this file, which may have been started through a symbolic link.
self=${BASH_SOURCE[0]}
if [[ -L $self ]]; then self=$(readlink -f -- "$self"); fi
if [[ $self != */* ]]; then self=./$self; fi
readonly lib_folder=${self%/*}/lib
[[ -d $lib_folder ]] ||
  die "the folder $lib_folder is missing" \
    "keep it beside $PROG.sh: copy the whole folder, or make a symbolic link to the script"
source "$lib_folder/arguments.sh"
source "$lib_folder/launcher.sh"
source "$lib_folder/slots.sh"
source "$lib_folder/cores.sh"
source "$lib_folder/network.sh"
source "$lib_folder/environment.sh"
source "$lib_folder/openmpi.sh"
source "$lib_folder/hydra.sh"

print_quoted() {
  local word separator=""
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then word=${word@Q}; fi
    printf '%s%s' "$separator" "$word"
    separator=" "
  done
  printf '\n'
}

# mpirun ends its ranks 0.2 s after SIGTERM or Ctrl-C, but passes SIGUSR1 on to
# them and leaves them the time to save. So the first signal of any kind becomes
# SIGUSR1, and the second one ends the job. mpirun gets a session of its own:
# the terminal sends Ctrl-C to all processes of this one.
readonly SAVED=75 # what ranks end with that have saved
child=""
signals=()

pass_signal_on() { # pass_signal_on NAME
  signals+=("$1")
  if ((${#signals[@]} == 1)); then
    if [[ $1 == INT ]]; then
      note "Ctrl-C: the ranks are asked to save and end; once more ends them at once"
    fi
    if [[ -n $child ]]; then kill -USR1 "$child"; fi
  elif [[ -n $child ]]; then
    kill -TERM "$child"
  fi
}

run_job() {
  local status
  trap 'pass_signal_on TERM' TERM
  trap 'pass_signal_on INT' INT
  trap 'pass_signal_on USR1' USR1
  setsid "$@" <&0 &
  child=$!
  if ((${#signals[@]} > 0)); then kill -USR1 "$child"; fi
  while true; do
    # A signal ends the wait, but not the job.
    wait "$child" && status=0 || status=$?
    kill -0 "$child" 2>/dev/null || end_with "$status"
  done
}

# end_with STATUS. Ranks that do not listen to SIGUSR1 end by it, and mpirun says
# so; but it was Ctrl-C or SIGTERM that ended them.
end_with() {
  local status=$1 name=SIGTERM instead=143
  if [[ ${signals[0]:-} == INT ]]; then name=Ctrl-C instead=130; fi
  if [[ $status == "$SAVED" || $status == 0 || ${signals[0]:-USR1} == USR1 ]]; then
    exit "$status"
  fi
  note "the job was ended by $name, and nothing says that it has saved (hvd.callbacks.BackupAndRestore does)"
  exit "$instead"
}

pass_variables_on() {
  local variable
  quiet_tensorflow
  for variable in "${variables[@]}"; do add_variable "$variable"; done
}

main() {
  ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) ||
    die "bash $BASH_VERSION is too old" "use bash 4.4 or later"
  parse_arguments "$@"
  check_arguments
  pass_variables_on
  find_launcher
  detect_flavour
  check_interface
  find_topology
  find_slots
  check_slots
  check_root
  count_local_ranks
  choose_binding
  case $flavour in
    openmpi*) openmpi_options ;;
    mpich) mpich_options ;;
    intel) intel_options ;;
  esac
  if [[ $dry_run == yes ]]; then
    print_quoted "$launcher" "${options[@]}" "${command_line[@]}"
  else
    run_job "$launcher" "${options[@]}" "${command_line[@]}"
  fi
}

main "$@"
