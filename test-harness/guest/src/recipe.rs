//! What the guest is made of. The image is made anew whenever anything here changes.

use xxhash_rust::xxh3::xxh3_64;

/// The Debian release: its kernel (6.12) has VFIO with the type 1 IOMMU interface.
pub const SUITE: &str = "trixie";
/// The mirror when this system's own package sources name none.
pub const MIRROR: &str = "http://deb.debian.org/debian";
/// The archive's keys.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Packages unpacked (never configured: no maintainer script runs).
pub const PACKAGES: &[&str] = &[
    "base-files",
    "linux-image-amd64",
    "busybox-static",
    "kmod",
    "coreutils",
    "fio",
    "e2fsprogs",
    "fdisk",
    "mount",
    "dmsetup",
    "libc6",
    "libgcc-s1",
    "libacl1",
];

/// Kernel modules taken into the image, with what they depend on.
pub const MODULES: &[&str] =
    &["nvme", "vfio-pci", "vfio_iommu_type1", "ext4", "dm-mod", "virtio_blk", "loop"];

/// Programs taken into the image, with their libraries.
pub const PROGRAMS: &[&str] = &[
    "/usr/bin/kmod",
    "/usr/bin/sleep",
    "/usr/bin/fio",
    "/usr/sbin/mke2fs",
    "/usr/sbin/sfdisk",
    "/usr/sbin/dmsetup",
    "/usr/bin/busybox",
];

/// Libraries that programs built on the host want.
pub const LIBRARIES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
    "/usr/lib/x86_64-linux-gnu/libm.so.6",
    "/usr/lib/x86_64-linux-gnu/libacl.so.1",
];

/// Names under which a program of the image is known, as (name, target).
pub const LINKS: &[(&str, &str)] = &[
    ("/usr/sbin/modprobe", "../bin/kmod"),
    ("/usr/sbin/rmmod", "../bin/kmod"),
    ("/usr/sbin/mkfs.ext4", "mke2fs"),
];

/// What busybox stands in for.
pub const APPLETS: &[&str] = &[
    "sh",
    "mount",
    "umount",
    "mkdir",
    "rmdir",
    "ln",
    "cat",
    "ls",
    "cp",
    "mv",
    "rm",
    "echo",
    "grep",
    "sed",
    "awk",
    "head",
    "tail",
    "sort",
    "cut",
    "tr",
    "wc",
    "dd",
    "sync",
    "which",
    "date",
    "uptime",
    "dmesg",
    "poweroff",
    "mkswap",
    "swapon",
    "swapoff",
    "mountpoint",
    "ps",
    "kill",
    "free",
    "nproc",
    "lspci",
    "basename",
    "dirname",
    "readlink",
    "seq",
    "touch",
    "stat",
    "df",
    "od",
    "cmp",
    "md5sum",
    "setsid",
    "true",
    "false",
    "env",
    "id",
    "blkid",
    "test",
    "[",
    "printf",
    "chmod",
    "chown",
    "find",
    "timeout",
    "ulimit",
    "sysctl",
    "xxd",
    "strings",
    "vi",
    "top",
    "taskset",
    "ip",
];

/// Small files of the image, as (name, content).
pub const FILES: &[(&str, &str)] = &[
    (
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("/etc/group", "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n"),
    (
        "/etc/mke2fs.conf",
        "[defaults]\n\tbase_features = sparse_super,filetype,dir_index,ext_attr\n[fs_types]\n\text4 = {\n\
         \t\tfeatures = has_journal,extent,metadata_csum,64bit\n\t}\n",
    ),
    ("/etc/hostname", "sheen-guest\n"),
];

/// The first program of the guest. Mounts what a Linux needs, runs `/run.sh` with its output on one channel, reports its
/// end on the other, and powers off.
pub const INIT: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts /tmp /run /root /mnt
mount -t tmpfs -o mode=1777 tmp /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs run /run
ip link set lo up
for port in /sys/class/virtio-ports/*; do
    ln -s "/dev/${port##*/}" "/run/$(cat "$port/name")"
done
modprobe nvme
cd /root
sh /run.sh </dev/null >/run/sheen.output 2>&1
echo "exit $?" >/run/sheen.control
sleep 1
poweroff -f
"#;

/// A name for this recipe: equal recipes give equal names, others do not.
#[must_use]
pub fn key() -> String {
    let text = format!(
        "3 {SUITE} {PACKAGES:?} {MODULES:?} {PROGRAMS:?} {LIBRARIES:?} {LINKS:?} {APPLETS:?} {FILES:?} {INIT}"
    );
    format!("{:016x}", xxh3_64(text.as_bytes()))
}
