# shellcheck shell=bash
# Which MPI is there.
# Sourced by ../hvdkit-mpirun.sh, which declares the variables.

find_launcher() {
  local name
  if [[ -n $launcher_arg ]]; then
    launcher=$(command -v -- "$launcher_arg") ||
      die "$launcher_arg was not found, or cannot be executed" \
        "check the path given to --mpirun, or leave --mpirun out"
    return
  fi
  for name in mpirun mpiexec; do
    # An absolute path matters: Open MPI then finds itself on the other hosts.
    if launcher=$(command -v "$name"); then return; fi
  done
  die "neither mpirun nor mpiexec is on PATH" \
    "activate the environment that Horovod was built in (source .venv/bin/activate), load your site's MPI module, or name the launcher with --mpirun"
}

detect_flavour() {
  local text major
  text=$("$launcher" --version 2>&1 </dev/null) ||
    die "$launcher --version failed: ${text%%$'\n'*}" \
      "this MPI cannot start here; run that command by itself and mend what it reports"
  case $text in
    *"Open MPI"* | *OpenRTE*)
      [[ $text =~ \)\ ([0-9]+)\.[0-9] ]] ||
        die "cannot read the version in '${text%%$'\n'*}'" "use Open MPI 4 or 5, MPICH or Intel MPI"
      major=${BASH_REMATCH[1]}
      ((major >= 4)) ||
        die "Open MPI $major is too old" "use Open MPI 4 or 5, MPICH or Intel MPI"
      if ((major == 4)); then flavour=openmpi4; else flavour=openmpi5; fi
      ;;
    # Intel's launcher is a Hydra too, so it is looked for first.
    *"Intel(R) MPI"*) flavour=intel ;;
    *HYDRA*) flavour=mpich ;;
    *)
      die "$launcher is of an MPI that is not known here; its version says '${text%%$'\n'*}'" \
        "use Open MPI 4 or 5, MPICH or Intel MPI, or call $launcher yourself with the options in README.md"
      ;;
  esac
}

# Open MPI refuses root unless told otherwise. We never decide that for the user.
check_root() {
  [[ $flavour == openmpi* ]] || return 0
  ((EUID == 0)) || return 0
  if [[ ${HVDKIT_ALLOW_ROOT:-} == 1 ]]; then
    options+=(--allow-run-as-root)
  elif [[ ${OMPI_ALLOW_RUN_AS_ROOT:-} != 1 || ${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-} != 1 ]]; then
    die "Open MPI does not run as root" \
      "use an ordinary account; in a container export OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1, or HVDKIT_ALLOW_ROOT=1"
  fi
}
