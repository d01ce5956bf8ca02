#!/usr/bin/env bash
# Ask the ranks in this pod to save and end, and wait until they have: the preStop hook
# of the workers. A pod that has to go (a drained node, a pre-emption) would otherwise
# lose its ranks with its sshd, at once. One rank that is asked is enough: all save, and
# end with status 75.
set -euo pipefail

# Prints the processes that mpirun has started here, without their children.
ranks() {
  local folder
  for folder in /proc/[0-9]*; do
    if is_rank "$folder" && ! is_rank "/proc/$(parent_of "$folder")"; then
      printf '%s\n' "${folder#/proc/}"
    fi
  done
}

# A process may end, or be another user's, at any time.
is_rank() { grep -qz '^OMPI_COMM_WORLD_RANK=' "$1/environ" 2>/dev/null; }

parent_of() { sed -n 's/^PPid:[[:space:]]*//p' "$1/status" 2>/dev/null; }

for pid in $(ranks); do kill -USR1 "$pid" || true; done
# Kubernetes ends the wait when terminationGracePeriodSeconds are over.
while [[ -n $(ranks) ]]; do sleep 0.2; done
