//! All litmuses, one file each.

use crate::run::Litmus;

mod append_append;
mod chmod_stat;
mod create_readdir;
mod direct_io;
mod exclusive_create;
mod fcntl_handover;
mod flock_handover;
mod link_count;
mod lock_counter;
mod mmap_mmap;
mod mmap_read;
mod negative_dentry;
mod ofd_handover;
mod rename_lookup;
mod rename_over;
mod rmdir_create;
mod stamped_blocks;
mod stat_size;
mod symlink_readlink;
mod truncate_read;
mod unlink_open;
mod write_read;
mod xattr_set_get;

/// Every litmus, in the order they are run.
pub const ALL: [Litmus; 23] = [
    write_read::LITMUS,
    stat_size::LITMUS,
    truncate_read::LITMUS,
    append_append::LITMUS,
    stamped_blocks::LITMUS,
    direct_io::LITMUS,
    mmap_read::LITMUS,
    mmap_mmap::LITMUS,
    negative_dentry::LITMUS,
    create_readdir::LITMUS,
    exclusive_create::LITMUS,
    rename_lookup::LITMUS,
    rename_over::LITMUS,
    unlink_open::LITMUS,
    link_count::LITMUS,
    rmdir_create::LITMUS,
    symlink_readlink::LITMUS,
    chmod_stat::LITMUS,
    xattr_set_get::LITMUS,
    flock_handover::LITMUS,
    ofd_handover::LITMUS,
    fcntl_handover::LITMUS,
    lock_counter::LITMUS,
];
