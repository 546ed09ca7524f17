//! Bytes with descriptors over a UNIX socket (`SCM_RIGHTS`).

use std::{
    io::{self, IoSlice},
    mem,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

/// Most descriptors that the kernel lets one message carry (SCM_MAX_FD). There is room for all of them, so that the kernel need not
/// close any while we receive: that may block.
const DESCRIPTORS_MAX: usize = 253;

/// Bytes before the data of a control message, and what its data is padded to.
const CMSG_HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
const CMSG_ALIGN: usize = size_of::<usize>();
/// Room for one control message with that many descriptors: a socket joins those of several to one.
const CONTROL_WORDS: usize =
    (CMSG_HEADER_BYTES + DESCRIPTORS_MAX * size_of::<RawFd>()).div_ceil(size_of::<u64>());

const _: () = assert!(CMSG_HEADER_BYTES == 16 && CMSG_ALIGN == 8, "as `numbers` reads them");

/// Sends `bytes`, which are few, and descriptors with them.
pub(crate) fn send(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights };
    let pieces = [IoSlice::new(bytes)];
    let sent =
        sendmsg::<UnixAddr>(socket.as_raw_fd(), &pieces, control, MsgFlags::MSG_NOSIGNAL, None)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Bytes that can be read of `socket`.
pub(crate) fn unread_bytes(socket: &UnixStream) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int at the address it is given.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Whether a descriptor of the calling thread is an eventfd. Asks nobody but the kernel's table: its answer to what a link in procfs leads to
/// names the kind of what no file system has, and begins with a slash for all else.
pub(crate) fn is_eventfd(descriptor: &OwnedFd) -> bool {
    let link = format!("/proc/thread-self/fd/{}", descriptor.as_raw_fd());
    std::fs::read_link(link).is_ok_and(|to| to.as_os_str() == "anon_inode:[eventfd]")
}

/// What one message brought.
#[derive(Debug)]
pub(crate) struct Received {
    /// Bytes taken of the stream.
    pub(crate) bytes: usize,
    /// Every descriptor that the kernel installed, also when it was not all that the peer sent.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// There was more than [`DESCRIPTORS_MAX`], or this process has no room for all: the message is to be refused.
    pub(crate) truncated: bool,
}

/// Receives up to `bytes.len()` bytes and the descriptors that came with them.
///
/// # Errors
/// The system's; nothing was received then.
#[allow(clippy::host_endian_bytes, reason = "the kernel of this host wrote them")]
pub(crate) fn receive(socket: &UnixStream, bytes: &mut [u8]) -> io::Result<Received> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut piece = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zeroes is a valid `msghdr`: no name, no buffers.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: `header` names `bytes` and `control` with their lengths, and both outlive the call.
    let received =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let bytes = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let used: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut descriptors = Vec::new();
    for number in numbers(&used[..header.msg_controllen.min(used.len())]) {
        // SAFETY: the kernel just made this descriptor for us in recvmsg; nobody else has its number.
        descriptors.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    let truncated = header.msg_flags & libc::MSG_CTRUNC != 0;
    Ok(Received { bytes, descriptors, truncated })
}

/// Numbers of the descriptors that the control messages in `control` name, of which the last may be cut short.
///
/// A `cmsghdr` is the length of header and data (8 bytes), level and type (4 each); the next begins at a multiple of 8. The library's
/// iterator gives none of them when MSG_CTRUNC is set, though the kernel has installed those that fitted.
#[allow(clippy::host_endian_bytes, reason = "the kernel of this host wrote them")]
fn numbers(mut control: &[u8]) -> Vec<RawFd> {
    let mut numbers = Vec::new();
    while let Some((header, rest)) = control.split_first_chunk::<CMSG_HEADER_BYTES>() {
        let word = |at: usize| {
            i32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (length, _) = header.split_first_chunk().expect("a header is longer than its length");
        let data_bytes = usize::from_ne_bytes(*length).saturating_sub(CMSG_HEADER_BYTES);
        let data = &rest[..data_bytes.min(rest.len())];
        if (word(8), word(12)) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            let (all, _) = data.as_chunks();
            numbers.extend(all.iter().map(|number| RawFd::from_ne_bytes(*number)));
        }
        control = rest.get(data_bytes.next_multiple_of(CMSG_ALIGN)..).unwrap_or_default();
    }
    numbers
}

#[cfg(test)]
#[allow(clippy::host_endian_bytes, reason = "as the kernel of this host writes them")]
mod test {
    use std::{fs::File, io::Read, os::fd::AsFd};

    use super::*;

    #[test]
    fn descriptors_of_a_message_come_out_and_those_of_one_cut_short_too() {
        for count in [0, 1, 4, DESCRIPTORS_MAX] {
            let (here, there) = UnixStream::pair().unwrap();
            let (reader, writer) = nix::unistd::pipe().unwrap();
            send(&there, b"bytes", &vec![writer.as_fd(); count]).unwrap();
            drop(writer);
            let mut bytes = [0; 8];
            let received = receive(&here, &mut bytes).unwrap();
            assert_eq!((received.bytes, received.descriptors.len()), (5, count));
            assert!(!received.truncated);
            drop(received);
            let mut end = Vec::new();
            assert_eq!(File::from(reader).read_to_end(&mut end).unwrap(), 0, "all are closed");
        }
    }

    #[test]
    fn control_messages_are_walked_through_to_the_end_and_no_further() {
        let message = |length: u64, level: i32, data: &[i32]| {
            let mut bytes = length.to_ne_bytes().to_vec();
            for word in [level, libc::SCM_RIGHTS].iter().chain(data) {
                bytes.extend(word.to_ne_bytes());
            }
            bytes
        };
        let two = message(24, libc::SOL_SOCKET, &[7, 8]);
        let odd = message(20, libc::SOL_SOCKET, &[9, 0]);
        let other = message(20, libc::SOL_IP, &[3, 0]);
        assert_eq!(numbers(&[two.clone(), other, odd, two.clone()].concat()), [7, 8, 9, 7, 8]);
        assert_eq!(numbers(&two[..20]), [7], "cut short");
        assert_eq!(numbers(&two[..15]), [] as [RawFd; 0]);
        assert_eq!(numbers(&message(u64::MAX, libc::SOL_SOCKET, &[5])), [5]);
        assert_eq!(numbers(&message(0, libc::SOL_SOCKET, &[])), [] as [RawFd; 0]);
    }
}
