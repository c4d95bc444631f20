#!/usr/bin/env bash
# A disk in memory whose writes take their time, for benchmarks whose figure depends on what an fsync costs:
#
#   bench/slow_disk.sh on FOLDER [MS]     mount it (2 GiB, ext4), each write MS milliseconds late (1); needs root
#   ./run.sh bench web --only submits --scratch FOLDER
#   bench/slow_disk.sh off FOLDER         unmount it; what was on it is gone
#
# Needs Debian's nbdkit and libnbd-bin, FUSE and a loop device. An fsync writes a journal as well, so it takes several times MS.
set -euo pipefail

usage() {
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

[ $# -ge 2 ] || usage
folder=$2
file=$folder.nbd
case $1 in
  on)
    mkdir -p "$folder"
    : >"$file"
    nbdfuse "$file" --command nbdkit -s --filter=delay memory 2G "wdelay=${3:-1}ms" &
    for _ in $(seq 100); do
      [ -s "$file" ] && break
      sleep 0.1
    done
    disk=$(losetup --find --show "$file")
    mkfs.ext4 -q -E nodiscard,lazy_itable_init=0 "$disk"
    mount "$disk" "$folder"
    ;;
  off)
    disk=$(findmnt --noheadings --output SOURCE "$folder")
    umount "$folder"
    losetup --detach "$disk"
    fusermount3 -u "$file" 2>/dev/null || umount "$file"
    rm -f "$file"
    rmdir "$folder"
    ;;
  *) usage ;;
esac
