//! Mounting through `fusermount3`, which has the privilege others lack.
//!
//! It mounts and sends the descriptor over the socket whose number it finds in `_FUSE_COMMFD`.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    process::Command,
};

use nix::{
    cmsg_space,
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{
        AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
    },
};

use crate::kernel::{
    device::Device,
    mountpoint::{attach::AttachError, options::MountOptions},
};

const PROGRAM: &str = "fusermount3";

/// Mounts.
pub(crate) fn attach(target: &Path, options: &MountOptions) -> Result<Device, AttachError> {
    let helper = |error: nix::Error| AttachError::Helper(error.into());
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .map_err(helper)?;
    // The child inherits this one.
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).map_err(helper)?;
    let mut child = Command::new(PROGRAM)
        .arg("-o")
        .arg(words(options))
        .arg("--")
        .arg(target)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .spawn()
        .map_err(AttachError::Helper)?;
    drop(theirs);
    let descriptor = receive(&ours);
    child.wait().map_err(AttachError::Helper)?;
    match descriptor {
        Ok(Some(descriptor)) => Ok(Device::new(descriptor)),
        Ok(None) => Err(AttachError::HelperRefused(target.to_owned())),
        Err(error) => Err(AttachError::Helper(error)),
    }
}

fn words(options: &MountOptions) -> String {
    let mut words: Vec<String> = options.flag_words().iter().map(|&word| word.to_owned()).collect();
    // As the helper wants what separates options.
    let source = options.source.replace('\\', "\\\\").replace(',', "\\,");
    words.push(format!("fsname={source}"));
    if let Some(subtype) = &options.subtype {
        words.push(format!("subtype={subtype}"));
    }
    if options.allow_other == Some(true) {
        words.push("allow_other".to_owned());
    }
    if options.default_permissions {
        words.push("default_permissions".to_owned());
    }
    if let Some(bytes) = options.max_read {
        words.push(format!("max_read={bytes}"));
    }
    words.join(",")
}

/// The descriptor; None if the other side closed without sending one.
fn receive(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0; 1];
    let mut control = cmsg_space!([i32; 1]);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(&descriptor) = descriptors.first()
        {
            // SAFETY: the kernel has just put this descriptor into our table for this message; nobody else knows its
            // number.
            return Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) }));
        }
    }
    Ok(None)
}

/// Unmounts; `lazy` detaches now and ends it when nobody uses it any more.
pub(crate) fn detach(target: &Path, lazy: bool) -> io::Result<bool> {
    let mut command = Command::new(PROGRAM);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    command.arg("--").arg(target).status().map(|status| status.success())
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::kernel::mountpoint::table::MountPoint;

    #[test]
    fn the_helper_mounts_sends_a_descriptor_and_unmounts() {
        struct Unmount(tempfile::TempDir);
        impl Drop for Unmount {
            fn drop(&mut self) {
                let _ = detach(self.0.path(), true);
            }
        }
        let guard = Unmount(tempfile::tempdir().unwrap());
        let directory = &guard.0;
        let mut options = MountOptions::parse("ro,nosuid", &[]).unwrap();
        options.source = r"by helper, in a\b".to_owned();
        let device = attach(directory.path(), &options).unwrap();
        let mount = MountPoint::at(directory.path()).unwrap().unwrap();
        assert_eq!(
            (mount.source.as_str(), mount.type_name.as_str()),
            (r"by helper, in a\b", "fuse.sheen")
        );
        assert!(mount.flags().contains(options.flags()));
        drop(device);
        assert!(detach(directory.path(), false).unwrap());
        assert_eq!(MountPoint::at(directory.path()).unwrap(), None);
    }

    #[test]
    fn a_helper_that_refuses_sends_nothing() {
        let missing = Path::new("/nowhere/at/all");
        let refused = attach(missing, &MountOptions::default());
        assert!(matches!(refused, Err(AttachError::HelperRefused(_))), "{refused:?}");
    }
}
