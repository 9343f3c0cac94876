# shellcheck shell=bash
# shellcheck disable=SC2034 # what is set here is used by those who source it
# Shared by the scripts here: where things are, messages, waiting by condition, daemons by pid, loop devices, ports.
#
# A daemon is known by its pid file, "pid start-time boot-id": a pid alone may have been given to someone else since.
# Everything of a cluster lies in one directory:
#
#   cluster.conf          shape and ports, written at the first start, sourced at the next ones
#   cluster.env           what is running now, for people and programs
#   conf/<daemon>.toml    configuration of each daemon
#   run/<daemon>.pid      who runs        logs/<daemon>.log  what it said
#   <daemon>/             its storage (with loop devices: the mount point of <daemon>.img)

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Where the programs are: given, or found by find_programs.
BIN=${DFS_BIN_DIR:-}
DEFAULT_DIR=/var/tmp/dfs-$(id -un)
BOOT_ID=$(cat /proc/sys/kernel/random/boot_id)

say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
  warn "$*"
  exit 1
}
usage_error() {
  warn "$*"
  warn "see: $0 --help"
  exit 2
}

# Prints the comment block at the top of the calling script.
print_help() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"; }

require_root() { [[ $(id -u) == 0 ]] || die "$1 needs root: run it with sudo"; }

# wait_until SECONDS COMMAND...: polls until the command succeeds; false when the time is over.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

# --- processes ---------------------------------------------------------------------------------------------------

# Start time of a process in clock ticks since boot; the command name before it may hold spaces and brackets.
start_time() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  local -a fields
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} != [ZX] ]] || return 1
  printf '%s' "${fields[19]}"
}

write_pid_file() { printf '%s %s %s\n' "$2" "$(start_time "$2")" "$BOOT_ID" >"$1"; }

# Pid in a pid file when that very process still runs.
live_pid() {
  local pid start boot
  [[ -r $1 ]] && read -r pid start boot <"$1" || return 1
  [[ $boot == "$BOOT_ID" && $(start_time "$pid") == "$start" ]] || return 1
  printf '%s' "$pid"
}

is_gone() { ! live_pid "$1" >/dev/null; }

# stop_daemon PID_FILE SECONDS: asks with SIGTERM (and SIGCONT, it may be stopped), insists with SIGKILL.
stop_daemon() {
  local pid
  if pid=$(live_pid "$1"); then
    kill -TERM "$pid" 2>/dev/null || true
    kill -CONT "$pid" 2>/dev/null || true
    if ! wait_until "$2" is_gone "$1"; then
      warn "process $pid ($(basename "$1" .pid)) did not stop within $2 s: killed"
      kill -KILL "$pid" 2>/dev/null || true
      wait_until 10 is_gone "$1" || warn "process $pid does not die"
    fi
  fi
  rm -f "$1"
}

# start_daemon DIR NAME COMMAND...: in a session of its own, with its log, and its pid stored.
start_daemon() {
  local dir=$1 name=$2 pid
  shift 2
  printf -- '---- started %s: %s\n' "$(date -Is)" "$*" >>"$dir/logs/$name.log"
  setsid nohup "$@" >>"$dir/logs/$name.log" 2>&1 </dev/null 8>&- 9>&- &
  pid=$!
  write_pid_file "$dir/run/$name.pid" "$pid" 2>/dev/null || true
}

# leftovers BASE: what tests below this directory have left behind, a line each: processes, mounts, loop devices. A process is
# known by the DFS_TEST_BASE in its environment, whatever its command line says: a network namespace of a test has no name,
# and lives as long as one process in it.
leftovers() {
  local base=$1 proc words
  for proc in /proc/[0-9]*; do
    [[ ${proc#/proc/} != "$$" ]] || continue
    # Gone meanwhile, maybe.
    { words=$(tr '\0' ' ' <"$proc/cmdline"); } 2>/dev/null || continue
    if [[ $words == *"$base"* ]] || grep -qzFx "DFS_TEST_BASE=$base" "$proc/environ" 2>/dev/null; then
      say "process ${proc#/proc/}: $words"
    fi
  done
  mount_points "$base" | sed 's/^/mount /'
  losetup -n -O NAME,BACK-FILE 2>/dev/null | grep -F "$base" || true
}

# sweep_tests BASE: ends and frees what tests that crashed or were killed left below this directory, and removes it.
sweep_tests() {
  local base=$1 kind number path left
  # A frozen device would keep its users from ending.
  while read -r path; do fsfreeze --unfreeze "$path" 2>/dev/null || true; done < <(mount_points "$base")
  # The whole list first: who makes it is one of those named.
  left=$(leftovers "$base")
  while read -r kind number _; do
    [[ $kind != process ]] || kill -KILL "${number%:}" 2>/dev/null || true
  done <<<"$left"
  while read -r path; do unmount "$path" || true; done < <(mount_points "$base" | sort -r)
  while read -r path _; do losetup -d "$path" 2>/dev/null || true; done < <(losetup -n -O NAME,BACK-FILE 2>/dev/null | grep -F "$base")
  rm -rf --one-file-system -- "$base"
}

# --- network -----------------------------------------------------------------------------------------------------

port_is_free() { [[ -z $(ss -Hltn "sport = :$1") ]]; }

# Who listens on a port; its name may be hidden from other users.
port_owner() {
  local owner
  owner=$(ss -Hltnp "sport = :$1" | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1 (pid \2)/p' | head -n 1)
  printf '%s' "${owner:-another program}"
}

# require_ports NAME PORTS: ends with what to do when one of a daemon's ports is taken.
require_ports() {
  local port
  for port in $2; do
    port_is_free "$port" ||
      die "port $port of $1 is taken by $(port_owner "$port"): stop that and run this again, or make another cluster with --dir"
  done
}

# free_port PREFERRED FIRST: the preferred one, or the next free one from FIRST up that was not handed out before.
HANDED_OUT=" "
free_port() {
  local port
  for port in "$1" $(seq "$2" "$(($2 + 2000))"); do
    if [[ $HANDED_OUT != *" $port "* ]] && port_is_free "$port"; then
      HANDED_OUT+="$port "
      PORT=$port
      return
    fi
  done
  die "no free TCP port from $2 to $(($2 + 2000)): stop some of the programs that 'ss -ltnp' shows there"
}

# http_get PORT PATH: prints what a daemon of this machine answers, heading and body.
http_get() {
  # shellcheck disable=SC2016
  timeout 5 bash -c '
    exec 3<>"/dev/tcp/127.0.0.1/$0" || exit 1
    printf "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n" "$1" >&3
    cat <&3' "$1" "$2" 2>/dev/null
}

# Whether the daemon behind this HTTP port serves. One that starts answers too, but not with 200.
is_healthy() { [[ $(http_get "$1" /health) == "HTTP/1.1 200 "* ]]; }

# What a daemon that does not serve yet says it is doing; nothing when it says nothing.
start_progress() { http_get "$1" /health | sed -n 's/^\(starting for .*\)$/\1/p' | tr -d '\r'; }

# --- mounts and devices ------------------------------------------------------------------------------------------

# mount_points [WORDS]: where something is mounted, a line each, of those lines of the kernel's table that have WORDS. The
# kernel writes space, tab and backslash as octal numbers; as they are there, its columns would shift.
mount_points() {
  { grep -F -- "${1:-}" /proc/self/mountinfo || true; } | awk '{ print $5 }' | sed 's/\\040/ /g; s/\\011/\t/g; s/\\134/\\/g'
}

is_mounted() { grep -qxF -- "$1" <(mount_points); }

# Ends with what to do when this machine cannot mount.
require_fuse() {
  [[ -c /dev/fuse ]] ||
    die "there is no /dev/fuse: load it with 'modprobe fuse'; a container needs --device /dev/fuse --cap-add SYS_ADMIN"
  # Root mounts by itself.
  [[ $(id -u) != 0 ]] || return 0
  command -v fusermount3 >/dev/null || die "fusermount3 is missing: install the package fuse3, or run this as root"
  [[ -r /dev/fuse && -w /dev/fuse ]] || die "$(id -un) may not use /dev/fuse: run 'chmod 666 /dev/fuse' or this as root"
}

answers() { timeout 10 stat "$1" >/dev/null 2>&1; }

# Unmounts whatever is there, lazily when it is busy or dead; several layers too.
unmount() {
  local _
  for _ in 1 2 3 4 5; do
    is_mounted "$1" || return 0
    timeout 20 umount "$1" 2>/dev/null || umount -l "$1" 2>/dev/null || true
  done
  ! is_mounted "$1"
}

# attach_device IMAGE MOUNT_DIR SIZE: makes the image when it is new, sets up the loop device, mounts it.
attach_device() {
  local image=$1 dir=$2 size=$3 loop
  if is_mounted "$dir"; then
    ! answers "$dir" || return 0
    unmount "$dir" || die "cannot unmount the failed device at $dir"
  fi
  mkdir -p "$dir"
  if [[ ! -e $image ]]; then
    rm -f -- "$image.new" # of a start that was interrupted
    truncate -s "$size" "$image.new"
    mkfs.xfs -q "$image.new"
    mv "$image.new" "$image"
  fi
  detach_image "$image"
  loop=$(losetup --direct-io=on --find --show "$image") || die "cannot attach a loop device to $image"
  mount -t xfs -o noatime "$loop" "$dir" || {
    losetup -d "$loop"
    die "cannot mount $image at $dir"
  }
  # From here on the mount alone holds the device: it goes with the last unmount, however that comes.
  losetup -d "$loop"
}

# Frees every loop device of an image file.
detach_image() {
  local loop
  for loop in $(losetup -n -O NAME -j "$1" 2>/dev/null); do
    losetup -d "$loop" 2>/dev/null || warn "loop device $loop of $1 is busy"
  done
}

# --- building ----------------------------------------------------------------------------------------------------

# Where cargo puts what it builds: it may be told by CARGO_TARGET_DIR, from wherever that is, or by its configuration.
target_dir() {
  local metadata
  metadata=$(cd "$REPO" && cargo metadata --format-version 1 --no-deps --locked) || return 1
  [[ $metadata =~ \"target_directory\":\"([^\"]+)\" ]] || return 1
  printf '%s' "${BASH_REMATCH[1]}"
}

# Sets BIN to where the programs are or will be.
find_programs() { [[ -n $BIN ]] || BIN=$(target_dir)/release || die "cargo does not say where it puts what it builds"; }

# Builds what a cluster runs, unless binaries were given by DFS_BIN_DIR.
build_binaries() {
  [[ -z ${DFS_BIN_DIR:-} ]] || return 0
  (cd "$REPO" && cargo build --release --locked -p dfs-server -p dfs-fuse -p dfs-client --bins) 8>&- 9>&-
}

# is_older VERSION OTHER: whether the first of two versions like 1.91.0 comes before the second.
is_older() { [[ $1 != "$2" && $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]; }
