//! All calls without payload: arguments in, answer encoded.

use sheen_types::Errno;

use crate::kernel::{
    abi::{Operation, reply},
    answer::DirectorySink,
    operation::{Context, Ioctl, NodeId},
    service::Service,
};

type Outcome = Result<(), Errno>;

impl Service {
    /// Calls the file system for `operation` and puts the answer into `out`.
    pub(crate) fn call_plain(
        &self,
        context: &Context,
        node: NodeId,
        operation: &Operation<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        reply::begin(out);
        match operation {
            Operation::Lookup { .. }
            | Operation::Readlink
            | Operation::Symlink { .. }
            | Operation::Mknod { .. }
            | Operation::Mkdir { .. }
            | Operation::Unlink { .. }
            | Operation::Rmdir { .. }
            | Operation::Rename(_)
            | Operation::Link { .. } => self.call_namespace(context, node, operation, out),
            Operation::Open(_)
            | Operation::Create { .. }
            | Operation::Tmpfile { .. }
            | Operation::Opendir(_)
            | Operation::Readdir { .. }
            | Operation::Release(_)
            | Operation::Releasedir(_)
            | Operation::Flush { .. }
            | Operation::Fsync { .. }
            | Operation::Fsyncdir { .. }
            | Operation::Fallocate { .. }
            | Operation::Lseek { .. }
            | Operation::CopyRange { .. } => self.call_open_file(context, node, operation, out),
            Operation::Getattr { .. }
            | Operation::Statx { .. }
            | Operation::Setattr(_)
            | Operation::Setxattr(_)
            | Operation::Getxattr { .. }
            | Operation::Listxattr { .. }
            | Operation::Removexattr { .. }
            | Operation::Access { .. } => self.call_attributes(context, node, operation, out),
            _ => self.call_other(context, node, operation, out),
        }
    }

    fn call_namespace(
        &self,
        context: &Context,
        node: NodeId,
        operation: &Operation<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let filesystem = &self.filesystem;
        let entry = match operation {
            Operation::Lookup { name } => filesystem.lookup(context, node, name)?,
            Operation::Symlink { name, target } => {
                filesystem.symlink(context, node, name, target)?
            }
            Operation::Mknod { name, new } => filesystem.mknod(context, node, name, new)?,
            Operation::Mkdir { name, new } => filesystem.mkdir(context, node, name, new)?,
            Operation::Link { source, name } => filesystem.link(context, *source, node, name)?,
            Operation::Unlink { name } => return filesystem.unlink(context, node, name),
            Operation::Rmdir { name } => return filesystem.rmdir(context, node, name),
            Operation::Rename(rename) => return filesystem.rename(context, rename),
            Operation::Readlink => {
                out.extend_from_slice(&filesystem.readlink(context, node)?);
                return Ok(());
            }
            _ => return Err(Errno::ENOSYS),
        };
        reply::entry(out, &entry);
        Ok(())
    }

    fn call_open_file(
        &self,
        context: &Context,
        node: NodeId,
        operation: &Operation<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let filesystem = &self.filesystem;
        match operation {
            Operation::Open(open) => reply::open(out, &filesystem.open(context, node, open)?),
            Operation::Opendir(open) => reply::open(out, &filesystem.opendir(context, node, open)?),
            Operation::Create { name, new, open } => {
                let (entry, opened) = filesystem.create(context, node, name, new, open)?;
                reply::entry(out, &entry);
                reply::open(out, &opened);
            }
            Operation::Tmpfile { new, open } => {
                let (entry, opened) = filesystem.tmpfile(context, node, new, open)?;
                reply::entry(out, &entry);
                reply::open(out, &opened);
            }
            Operation::Readdir { handle, offset, size, plus } => {
                let mut sink = DirectorySink::new(std::mem::take(out), *size, *plus);
                let listed = filesystem.readdir(context, node, *handle, *offset, &mut sink);
                *out = sink.into_bytes();
                listed?;
            }
            Operation::Release(release) => filesystem.release(context, node, release)?,
            Operation::Releasedir(release) => filesystem.releasedir(context, node, release)?,
            Operation::Flush { handle, owner } => {
                filesystem.flush(context, node, *handle, *owner)?;
            }
            Operation::Fsync { handle, scope } => {
                filesystem.fsync(context, node, *handle, *scope)?;
            }
            Operation::Fsyncdir { handle, scope } => {
                filesystem.fsyncdir(context, node, *handle, *scope)?;
            }
            Operation::Fallocate { handle, offset, length, mode } => {
                let end = offset.checked_add(*length).ok_or(Errno::EFBIG)?;
                filesystem.fallocate(context, node, *handle, *offset..end, *mode)?;
            }
            Operation::Lseek { handle, offset, whence } => {
                let found = filesystem.lseek(context, node, *handle, *offset, *whence)?;
                reply::number64(out, found);
            }
            Operation::CopyRange { copy, wide } => {
                let mut copy = *copy;
                if *wide {
                    reply::number64(out, filesystem.copy_file_range(context, &copy)?);
                } else {
                    // The short form counts in 32 bits.
                    copy.length = copy.length.min(u64::from(u32::MAX) & !4095);
                    let copied = filesystem.copy_file_range(context, &copy)?;
                    reply::number32(out, u32::try_from(copied).map_err(|_| Errno::EIO)?);
                }
            }
            _ => return Err(Errno::ENOSYS),
        }
        Ok(())
    }

    fn call_attributes(
        &self,
        context: &Context,
        node: NodeId,
        operation: &Operation<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let filesystem = &self.filesystem;
        match operation {
            Operation::Getattr { handle } => {
                reply::attr(out, &filesystem.getattr(context, node, *handle)?);
            }
            Operation::Statx { handle } => {
                reply::statx(out, &filesystem.statx(context, node, *handle)?);
            }
            Operation::Setattr(set) => {
                reply::attr(out, &filesystem.setattr(context, node, set)?);
            }
            Operation::Setxattr(set) => filesystem.setxattr(context, node, set)?,
            Operation::Removexattr { name } => filesystem.removexattr(context, node, name)?,
            Operation::Getxattr { name, size } => {
                sized(out, &filesystem.getxattr(context, node, name)?, *size)?;
            }
            Operation::Listxattr { size } => {
                sized(out, &filesystem.listxattr(context, node)?, *size)?;
            }
            Operation::Access { mask } => filesystem.access(context, node, *mask)?,
            _ => return Err(Errno::ENOSYS),
        }
        Ok(())
    }

    fn call_other(
        &self,
        context: &Context,
        node: NodeId,
        operation: &Operation<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let filesystem = &self.filesystem;
        match operation {
            Operation::Statfs => reply::statfs(out, &filesystem.statfs(context, node)?),
            Operation::Syncfs => filesystem.syncfs(context, node)?,
            Operation::Getlk(request) => {
                reply::lock(out, filesystem.getlk(context, request)?.as_ref());
            }
            Operation::Setlk(request) => filesystem.setlk(context, request)?,
            Operation::Ioctl(ioctl) => self.call_ioctl(context, ioctl, out)?,
            Operation::Bmap { block, block_bytes } => {
                reply::number64(out, filesystem.bmap(context, node, *block, *block_bytes)?);
            }
            Operation::Poll(poll) => reply::number32(out, filesystem.poll(context, poll)?),
            _ => return Err(Errno::ENOSYS),
        }
        Ok(())
    }

    fn call_ioctl(&self, context: &Context, ioctl: &Ioctl<'_>, out: &mut Vec<u8>) -> Outcome {
        let answer = self.filesystem.ioctl(context, ioctl)?;
        let room = usize::try_from(ioctl.output_bytes_max).unwrap_or(usize::MAX);
        if answer.output.len() > room {
            return Err(Errno::EIO);
        }
        reply::ioctl(out, answer.result);
        out.extend_from_slice(&answer.output);
        Ok(())
    }
}

/// An xattr answer: its size if `size` is 0, else its bytes if they fit.
fn sized(out: &mut Vec<u8>, value: &[u8], size: u32) -> Outcome {
    let length = u32::try_from(value.len()).map_err(|_| Errno::E2BIG)?;
    if size == 0 {
        reply::number32(out, length);
    } else if length > size {
        return Err(Errno::ERANGE);
    } else {
        out.extend_from_slice(value);
    }
    Ok(())
}
