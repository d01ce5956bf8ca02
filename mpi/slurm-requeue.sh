#!/usr/bin/env bash
# Run a command in a Slurm job, and queue the job again when the ranks have saved
# and ended (exit status 75: hvd.callbacks.BackupAndRestore). The job scripts here
# start through it:
#
#   exec mpi/slurm-requeue.sh srun --mpi=pmix python train.py
#
# Slurm queues a pre-empted job again only when it had to end it. One that has
# saved and ended within the grace time has failed, in Slurm's eyes, and would
# not come back. Nor would one that has saved before the end of its time.
# A job that was cancelled stays cancelled; `sbatch --no-requeue` is respected.
set -euo pipefail

readonly PROG=slurm-requeue
readonly SAVED=75
child=""
told=no

note() { printf '%s: note: %s\n' "$PROG" "$1" >&2; }

pass_signal_on() {
  told=yes
  if [[ -n $child ]]; then kill -USR1 "$child"; fi
}

queue_again() {
  local state
  state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) || state=UNKNOWN
  if [[ $state != RUNNING ]]; then
    note "the ranks have saved; the job is $state and stays so"
  elif scontrol requeue "$SLURM_JOB_ID"; then
    note "the ranks have saved; job $SLURM_JOB_ID is queued again and goes on from there"
  else
    note "the ranks have saved, but the job can't be queued again: submit it once more"
  fi
}

main() {
  local status
  if (($# == 0)); then
    printf 'usage: %s COMMAND [ARGUMENT...]\n' "$0" >&2
    exit 2
  fi
  trap 'pass_signal_on' USR1
  # Slurm sends it to all processes of a job, so the command has got it, too.
  trap : TERM
  "$@" <&0 &
  child=$!
  if [[ $told == yes ]]; then kill -USR1 "$child"; fi
  while true; do
    # A signal ends the wait, but not the command.
    wait "$child" && status=0 || status=$?
    kill -0 "$child" 2>/dev/null || break
  done
  if ((status == SAVED)); then queue_again; fi
  return "$status"
}

main "$@"
