# shellcheck shell=bash
# The command line.
# Sourced by ../hvdkit-mpirun.sh, which declares the variables.

usage() {
  cat <<'END'
usage: hvdkit-mpirun.sh -np N [options] -- COMMAND [ARGUMENT...]

  -np, -n N              number of ranks (needed)
  -H, --hosts LIST       hosts and slots, as h1:4,h2:4 (no number: 1 slot)
  --hostfile FILE        a host file in the format of the MPI in use: hosts/
                         beside this script has an example for each
  --interface NET        network interface (eth0) or network (10.0.0.0/16) for
                         MPI, NCCL and Gloo; --network is the same
  --bind HOW             auto (default), core, numa or none
  --cores N              cores of one host, or SOCKETSxCORES (2x16), where the
                         hosts differ from this machine
  -x NAME[=VALUE]        pass a variable on to the ranks, besides those that README.md
                         names; may be given several times
  --oversubscribe        allow more ranks than slots
  --mpirun PROGRAM       the launcher to use (default: mpirun, then mpiexec)
  --dry-run              print the command and stop
  -h, --help             print this

Environment: HVDKIT_ALLOW_ROOT=1 lets Open MPI run as root.
END
}

need_value() { # need_value OPTION COUNT_OF_WORDS_LEFT
  (($2 >= 2)) || die "$1 needs a value" "see $PROG.sh --help"
}

parse_arguments() {
  while (($# > 0)); do
    # --option=value is --option value.
    if [[ $1 == --*=* ]]; then
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
    fi
    case $1 in
      -np | -n | --np) need_value "$1" $#; np=$2; shift 2 ;;
      -H | --hosts | --host) need_value "$1" $#; hosts_arg=$2; shift 2 ;;
      --hostfile) need_value "$1" $#; hostfile=$2; shift 2 ;;
      --interface | --network) need_value "$1" $#; interface=$2; shift 2 ;;
      --bind) need_value "$1" $#; bind=$2; shift 2 ;;
      --cores) need_value "$1" $#; cores_arg=$2; shift 2 ;;
      --mpirun) need_value "$1" $#; launcher_arg=$2; shift 2 ;;
      -x | --x) need_value "$1" $#; variables+=("$2"); shift 2 ;;
      --oversubscribe) oversubscribe=yes; shift ;;
      --dry-run) dry_run=yes; shift ;;
      -h | --help) usage; exit 0 ;;
      --) shift; command_line=("$@"); return ;;
      -*) die "unknown option $1" "see $PROG.sh --help; what follows -- is the command to run" ;;
      *) command_line=("$@"); return ;;
    esac
  done
}

check_arguments() {
  [[ -n $np ]] || die "the number of ranks is missing" "add -np N, for example -np 2"
  [[ $np =~ ^[1-9][0-9]{0,6}$ ]] ||
    die "-np must be a positive integer, not '$np'" "give the number of ranks, for example -np 2"
  ((${#command_line[@]} > 0)) ||
    die "no command to run" "put it after --, for example: $PROG.sh -np $np -- python train.py"
  case $bind in
    auto | core | numa | none) ;;
    *) die "--bind must be auto, core, numa or none, not '$bind'" "leave --bind out for auto" ;;
  esac
  [[ -z $hosts_arg || -z $hostfile ]] ||
    die "both --hosts and --hostfile are given" "give one of them"
  [[ -z $cores_arg || $cores_arg =~ ^[1-9][0-9]{0,4}(x[1-9][0-9]{0,4})?$ ]] ||
    die "--cores must be a number such as 16, or SOCKETSxCORES such as 2x8, not '$cores_arg'" \
      "leave --cores out to use what this machine has"
}
