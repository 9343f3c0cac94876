# shellcheck shell=bash
# shellcheck disable=SC2034 # what is set here is used by those who source it
# Shared by the scripts here: where things are, messages, waiting by condition, daemons by pid, loop devices, ports.
#
# A daemon is known by its pid file, "pid start-time boot-id directory-inode": a pid alone may have been given to someone else since,
# and in a copy of the directory the daemons are another cluster's. So is the mount: run/mountpoint is "directory-inode path".
# Everything of a cluster lies in one directory:
#
#   cluster.mark          says that scripts/up has made this directory: what is not marked is never removed
#   cluster.conf          shape and ports, written at the first start, read at the next ones
#   cluster.env           what is running now, for people and programs; removed by scripts/up when a process that it names is gone
#   cluster.purge         cluster.conf, once its purge has begun
#   conf/<daemon>.toml    configuration of each daemon, the mount's too: a command line names it, and so whose daemon it is
#   run/<daemon>.pid      who runs        logs/<daemon>.log  what it said
#   <daemon>/             its storage (with loop devices: the mount point of <daemon>.img)

# With it, cd goes elsewhere and prints where.
unset CDPATH

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
  # Its first thread is a zombie also while another one hangs in a device, and so keeps the process's ports and locks.
  [[ ${fields[0]} != [ZX] ]] || has_other_threads "$1" || return 1
  printf '%s' "${fields[19]}"
}

has_other_threads() {
  local -a threads=("/proc/$1/task"/*)
  ((${#threads[@]} > 1))
}

# write_pid_file FILE PID: whole or not at all. FILE lies in run/ of the cluster's directory.
write_pid_file() {
  local start mark
  start=$(start_time "$2") && mark=$(mark_of "${1%/*/*}") || return 1
  printf '%s %s %s %s\n' "$2" "$start" "$BOOT_ID" "$mark" >"$1.new" && mv -- "$1.new" "$1"
}

# is_alive PID START BOOT: whether that very process still runs.
is_alive() { [[ $3 == "$BOOT_ID" && $(start_time "$1") == "$2" ]]; }

# Pid in a pid file when its process still runs, and the file is not a copy.
live_pid() {
  local pid start boot mark
  [[ -r $1 ]] && read -r pid start boot mark <"$1" || return 1
  [[ $mark == "$(mark_of "${1%/*/*}")" ]] || return 1
  is_alive "$pid" "$start" "$boot" || return 1
  printf '%s' "$pid"
}

is_gone() { ! live_pid "$1" >/dev/null; }

# stop_daemon PID_FILE SECONDS: asks with SIGTERM (and SIGCONT, it may be stopped), insists with SIGKILL. False when even that
# does not end it, since one of its threads waits for a device that hangs: then its pid file stays.
stop_daemon() {
  local pid
  if pid=$(live_pid "$1"); then
    kill -TERM "$pid" 2>/dev/null || true
    kill -CONT "$pid" 2>/dev/null || true
    if ! wait_until "$2" is_gone "$1"; then
      warn "process $pid ($(basename "$1" .pid)) did not stop within $2 s: killed"
      kill -KILL "$pid" 2>/dev/null || true
      wait_until 10 is_gone "$1" || {
        warn "process $pid does not die"
        return 1
      }
    fi
  fi
  rm -f "$1"
}

# start_daemon DIR NAME COMMAND...: in a session of its own, with its log. It notes its own pid before it becomes the daemon:
# one whose pid file cannot be written does not run. Whoever is interrupted here calls await_note before stop_daemon.
start_daemon() {
  local dir=$1 name=$2 pid
  shift 2
  local pid_file=$dir/run/$name.pid
  rm -f -- "$pid_file" || die "cannot remove $pid_file"
  STARTING=$pid_file STARTED_BEFORE=${!:-}
  printf -- '---- started %s: %s\n' "$(date -Is)" "$*" >>"$dir/logs/$name.log"
  # shellcheck disable=SC2016
  setsid nohup bash -c 'set -euo pipefail; . "$0"; write_pid_file "$1" "$$"; shift; exec "$@"' \
    "${BASH_SOURCE[0]}" "$pid_file" "$@" >>"$dir/logs/$name.log" 2>&1 </dev/null 8>&- 9>&- &
  await_note || die "$name was not started: $pid_file cannot be written"
}

# The pid file of the daemon that is being started, and which process was the last one started before it.
STARTING='' STARTED_BEFORE=''

# Waits until the daemon that is being started, if any, is known by its pid file or has ended. By $!, which is set with the start: a
# signal may come before anything else is.
await_note() {
  local pid=${!:-} pid_file=$STARTING
  [[ -n $pid_file && $pid != "$STARTED_BEFORE" ]] || return 0
  # Known until the end, for whoever is interrupted while this waits.
  wait_until 60 is_noted_or_gone "$pid_file" "$pid" || kill -KILL "$pid" 2>/dev/null || true
  STARTING=
  [[ -e $pid_file ]]
}

is_noted_or_gone() { [[ -e $1 ]] || ! start_time "$2" >/dev/null; }

# --- runs of tests -----------------------------------------------------------------------------------------------
#
# All directories of a run's tests lie in its base. The base says who it is (device and inode) and whose (pid, start time, boot)
# in .dfs-test-run. Nothing else is ever swept: an empty name, a directory that tests were only told to use, a copy of a base.

# new_test_base [PID]: makes the base of a run, whose process is PID (or this shell), and prints its path, without symlinks.
new_test_base() {
  local base pid=${1:-$$}
  base=$(mktemp -d "${TMPDIR:-/var/tmp}/dfs-test.XXXXXX") && base=$(realpath -- "$base") || return 1
  # Tests of permissions go in as other users.
  chmod 755 -- "$base"
  printf '%s %s %s %s\n' "$(stat -c %d:%i -- "$base")" "$pid" "$(start_time "$pid")" "$BOOT_ID" >"$base/.dfs-test-run" || return 1
  printf '%s' "$base"
}

# Whether new_test_base made this very directory, for this user.
is_test_base() {
  local identity _
  [[ ${1:-} =~ ^/.+/dfs-test\.[A-Za-z0-9]{6}$ && -d $1 && ! -L $1 && -O $1 && $(realpath -- "$1") == "$1" ]] || return 1
  [[ -f $1/.dfs-test-run && ! -L $1/.dfs-test-run ]] && read -r identity _ <"$1/.dfs-test-run" || return 1
  [[ $identity == "$(stat -c %d:%i -- "$1")" ]] && ! is_mounted "$1"
}

# Processes with this base in their environment, whatever their command lines say: a network namespace of a test has no name, and
# lives as long as one process in it.
test_processes() {
  local found file pid
  local -a look=(env -u DFS_TEST_BASE timeout 10 grep -lszFx -- "DFS_TEST_BASE=$1")
  # Reading of a process that hangs while it starts hangs, too: then one by one, without that one.
  found=$("${look[@]}" /proc/[0-9]*/environ) || (($? != 124)) ||
    found=$(look[4]=1 && for file in /proc/[0-9]*/environ; do "${look[@]}" "$file" || true; done)
  for file in $found; do
    pid=${file//[!0-9]/}
    [[ $pid == "$$" ]] || say "$pid"
  done
}

# True when none is left: one that dies may still hold a mount, or have started another.
end_test_processes() {
  local pids
  pids=$(test_processes "$1")
  # shellcheck disable=SC2086
  [[ -z $pids ]] || { kill -KILL $pids 2>/dev/null; false; }
}

# Loop devices whose files lie below a directory.
loops_below() {
  losetup -n -l -O NAME,BACK-FILE 2>/dev/null | BELOW=$1/ awk '{
    file = $0; sub(/^[^ ]+ +/, "", file)
    if (index(file, ENVIRON["BELOW"]) == 1) print $1
  }'
}

# leftovers BASE: what tests below this directory have left behind, a line each: processes, mounts, loop devices.
leftovers() {
  local pid
  for pid in $(test_processes "$1"); do
    say "process $pid: $(timeout 5 tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" || true)"
  done 2>/dev/null
  mounts_below "$1" | sed 's/^/mount /'
  loops_below "$1" | sed 's/^/loop device /'
}

# sweep_tests BASE: ends and frees what tests that crashed or were killed left below a run's base, and removes it. In a shell of its
# own, which nothing interrupts half-way.
sweep_tests() (
  trap '' INT TERM HUP
  base=${1:-}
  is_test_base "$base" || {
    warn "$base is not the directory of a run of tests: it stays as it is"
    exit 1
  }
  # A frozen device would keep its users from ending.
  while IFS= read -r path; do fsfreeze --unfreeze "$path" 2>/dev/null || true; done < <(mounts_below "$base")
  wait_until 10 end_test_processes "$base" || warn "processes of a run of tests do not die: $(test_processes "$base" | xargs)"
  while IFS= read -r path; do unmount "$path" || true; done < <(mounts_below "$base")
  for path in $(loops_below "$base"); do losetup -d "$path" 2>/dev/null || true; done
  cd -- "$base" && read -r identity _ <.dfs-test-run && [[ $identity == "$(stat -c %d:%i .)" ]] || exit 1
  find . -xdev -mindepth 1 ! -path ./.dfs-test-run -delete || exit 1
  # Last: what cannot be removed now is swept the next time.
  rm -f .dfs-test-run
  rmdir -- "$base"
)

# What runs that were killed have left.
sweep_dead_runs() {
  local base pid start boot _
  for base in "$(realpath -- "${TMPDIR:-/var/tmp}")"/dfs-test.??????; do
    is_test_base "$base" || continue
    read -r _ pid start boot <"$base/.dfs-test-run" || continue
    is_alive "$pid" "$start" "$boot" || sweep_tests "$base" || warn "cannot remove all that a run of tests left in $base"
  done
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

# What is mounted, a line each: type, source, and where. The kernel writes space, tab and backslash as octal numbers; as they
# are there, its columns would shift.
mount_table() {
  awk '{
    path = $5; gsub(/\\040/, " ", path); gsub(/\\011/, "\t", path); gsub(/\\134/, "\\\\", path)
    for (i = 7; i < NF && $i != "-"; i++);
    print $(i + 1), $(i + 2), path
  }' /proc/self/mountinfo
}

mount_points() { mount_table | cut -d ' ' -f 3-; }

is_mounted() { grep -qxF -- "$1" <(mount_points); }

# Mount points below a directory, deepest first.
mounts_below() {
  local path
  mount_points | while IFS= read -r path; do
    [[ $path != "$1/"* ]] || printf '%s\n' "$path"
  done | sort -r
}

# is_mount_of ADDRESS PATH: whether what is mounted at a path, on top, is the cluster of the NameNode at this address.
is_mount_of() {
  local type source path top=
  while read -r type source path; do [[ $path != "$2" ]] || top="$type $source"; done < <(mount_table)
  [[ -n $1 && $top == "fuse.dfs $1" ]]
}

# Ends with what to do when this machine cannot mount.
require_fuse() {
  [[ -c /dev/fuse ]] ||
    die "there is no /dev/fuse: load it with 'modprobe fuse'; a container needs --device /dev/fuse --cap-add SYS_ADMIN"
  # Root mounts by itself.
  [[ $(id -u) != 0 ]] || return 0
  command -v fusermount3 >/dev/null || die "fusermount3 is missing: install the package fuse3, or run this as root"
  [[ -r /dev/fuse && -w /dev/fuse ]] || die "$(id -un) may not use /dev/fuse: run 'chmod 666 /dev/fuse' or this as root"
}

# Whether a file system answers. The kernel remembers attributes of a mount whose daemon is dead (stat), but not its room (stat -f).
answers() { timeout 10 stat "$1" >/dev/null 2>&1 && timeout 10 stat -f "$1" >/dev/null 2>&1; }

# unmount_while PATH TEST...: unmounts what is there, lazily when it is busy or dead, several layers too, as long as the test says
# so.
unmount_while() {
  local path=$1 _
  shift
  for _ in 1 2 3 4 5; do
    "$@" || return 0
    timeout 20 umount "$path" 2>/dev/null || umount -l "$path" 2>/dev/null || true
  done
  ! "$@"
}

# Unmounts whatever is there.
unmount() { unmount_while "$1" is_mounted "$1"; }

# unmount_cluster ADDRESS PATH: unmounts the cluster of this NameNode there, and nothing else.
unmount_cluster() { unmount_while "$2" is_mount_of "$1" "$2"; }

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

# --- a cluster's directory ---------------------------------------------------------------------------------------

# Sets DIR to the directory meant. A symlink of somebody else may lead anywhere.
find_cluster_dir() {
  local given=${1%/}
  [[ ! -L $given || $(stat -c %u -- "$given") == "$(id -u)" ]] ||
    die "$given is a symlink of $(stat -c %U -- "$given"): choose another --dir"
  DIR=$(realpath -m -- "$1")
}

# What the files in it say is done: nobody else may be able to write them.
require_own_dir() {
  [[ -O $DIR ]] || die "$DIR belongs to $(stat -c %U -- "$DIR"): run this as that user, or choose another --dir"
  ! ((8#$(stat -c %a -- "$DIR") & 8#022)) ||
    die "others may write in $DIR: run 'chmod go-w $(printf %q "$DIR")' if nobody has, or choose another --dir"
}

# The mark is the directory's inode: in a copy it does not fit. (The number of the device may change at a boot.)
mark_of() { stat -c %i -- "$1"; }

mark_dir() { mark_of "$DIR" >"$DIR/cluster.mark.new" && mv -- "$DIR/cluster.mark.new" "$DIR/cluster.mark"; }

is_marked() { [[ -f $DIR/cluster.mark && $(cat "$DIR/cluster.mark") == "$(mark_of "$DIR")" ]]; }

# Where scripts/up has mounted the cluster; nothing in a copy. The mark stands before the path.
own_mountpoint() { sed -n "s/^$(mark_of "$DIR") //p" "$DIR/run/mountpoint" 2>/dev/null || true; }

# The daemons of the cluster that run, a line each: pid and name. By their command lines: files may be lost, old or copies.
own_daemons() {
  local proc name i
  local -a words
  for proc in /proc/[0-9]*; do
    # The name first: reading the command line of a process that hangs hangs, too.
    [[ -O $proc && $(cat "$proc/comm" 2>/dev/null) =~ ^dfs-(server|fuse)$ ]] || continue
    mapfile -d '' -t words < <(timeout 5 cat "$proc/cmdline" 2>/dev/null)
    name=
    for ((i = 1; i < ${#words[@]}; i++)); do
      if [[ ${words[i - 1]} == --config && ${words[i]} == "$DIR"/conf/*.toml ]]; then name=$(basename "${words[i]}" .toml); fi
    done
    [[ ! $name =~ ^(namenode-[0-9]+|datanode-[0-9]+|fuse)$ ]] || say "${proc#/proc/} $name"
  done
}

# lock_dir SECONDS: takes the directory's lock, on descriptor 9. Status 1: somebody else has it. 2: who had it has removed it.
lock_dir() {
  exec 9>>"$DIR/lock" || {
    [[ ! -d $DIR ]] || die "cannot write $DIR/lock"
    return 2
  }
  flock -w "$1" 9 || return 1
  [[ $DIR/lock -ef /proc/self/fd/9 ]] || return 2
}

# The names of what is chosen once for each daemon, of those that are set.
saved_names() { compgen -v | grep -E '^(NAMENODE|DATANODE)_[0-9]+_(RPC|HTTP|DATA_PORT|RACK)$' || true; }

# Whoever has sourced a cluster.env may have exported it.
# shellcheck disable=SC2046
forget_shape() { unset FORMAT FORMATTED NAMENODES DATANODES REPLICATION DEVICES RACKS DEVICE_SIZE $(saved_names); }

# read_shape FILE: sets what a cluster.conf says. It is read, not run: only these names, and values of their form.
read_shape() {
  local line name value
  local ports='(NAMENODE|DATANODE)_[1-9][0-9]{0,2}_(RPC|HTTP|DATA_PORT)'
  local number="^(FORMAT|FORMATTED|NAMENODES|DATANODES|REPLICATION|RACKS|$ports)=([1-9][0-9]{0,4})\$"
  local word='^(DEVICES|DEVICE_SIZE|DATANODE_[1-9][0-9]{0,2}_RACK)=([A-Za-z0-9/_.-]+)$'
  forget_shape
  while IFS= read -r line || [[ -n $line ]]; do
    [[ $line =~ $number || $line =~ $word ]] || continue
    name=${line%%=*} value=${line#*=}
    printf -v "$name" '%s' "$value"
  done <"$1"
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
