#!/bin/sh
# The first process of the machine: the host's files below an own layer, then the tests, then power off.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/modules/$module"; done </modules/order
$b mount -t virtiofs -o ro host /host || { echo 'the files of the host are not there'; $b poweroff -f; }
$b mount -t tmpfs -o size=60% own /own
$b mkdir /own/upper /own/work
$b mount -t overlay -o lowerdir=/host,upperdir=/own/upper,workdir=/own/work overlay /new ||
    { echo 'no layer above the files of the host'; $b poweroff -f; }
$b mount -t proc proc /new/proc
$b mount -t sysfs sys /new/sys
$b mount -t devtmpfs dev /new/dev
$b mkdir -p /new/dev/pts /new/dev/shm
$b mount -t devpts devpts /new/dev/pts
$b mount -t tmpfs -o mode=1777 shm /new/dev/shm
$b mount -t tmpfs -o mode=1777 tmp /new/tmp
$b mount -t tmpfs run /new/run
$b mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
echo '+cpu +memory +pids' >/new/sys/fs/cgroup/cgroup.subtree_control
$b ip link set lo up
$b cp /tests.sh /new/run/tests.sh
# A terminal's line ends are not wanted; the program that reads them is not one.
$b stty -opost </dev/console
echo 'formic-vm: up'
$b chroot /new /usr/bin/env -i HOME=/ TERM=dumb \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /bin/sh /run/tests.sh </dev/null 2>&1
echo 'formic-vm: done'
$b poweroff -f
