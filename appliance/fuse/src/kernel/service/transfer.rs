//! READ and WRITE: payload goes between the kernel and the file system's buffer without a copy between.

use std::io::IoSlice;

use sheen_dma::Buffer;
use sheen_types::Errno;

use crate::kernel::{
    abi::reply,
    answer::ReadAnswer,
    device::HEAD_BYTES,
    message::Message,
    operation::{Context, ReadRequest, WriteRequest},
    service::{Service, answer},
    worker::Hands,
};

/// Most pieces of an answer's payload.
const PIECES_MAX: usize = 16;

impl Service {
    pub(crate) fn write(
        &self,
        message: &Message,
        context: &Context,
        request: &WriteRequest,
        payload: Option<Buffer>,
        hands: &mut Hands,
    ) {
        let came = message.header.length - HEAD_BYTES;
        let payload = match payload {
            Some(payload) if usize::try_from(request.size) == Ok(came) => payload,
            other => {
                hands.buffer = other.or(hands.buffer.take());
                return answer::error(message, Errno::EIO);
            }
        };
        match self.filesystem.write(context, request, payload) {
            Ok(written) => {
                reply::begin(&mut hands.reply);
                reply::number32(&mut hands.reply, written.bytes.min(request.size));
                answer::finish(message, Ok(()), &mut hands.reply);
                if written.buffer.is_some() {
                    hands.buffer = written.buffer;
                }
            }
            Err(errno) => answer::error(message, errno),
        }
    }

    pub(crate) fn read(
        &self,
        message: &Message,
        context: &Context,
        request: &ReadRequest,
        hands: &mut Hands,
    ) {
        let wanted = usize::try_from(request.size).unwrap_or(usize::MAX);
        let room = match hands.buffer.take() {
            Some(room) if room.len() >= wanted => room,
            other => {
                hands.buffer = other;
                return answer::error(message, Errno::EINVAL);
            }
        };
        match self.filesystem.read(context, request, room) {
            Ok(content) => {
                send_content(message, &content, wanted, &mut hands.reply);
                if let ReadAnswer::Buffer { buffer, .. } = content {
                    hands.buffer = Some(buffer);
                }
            }
            Err(errno) => answer::error(message, errno),
        }
    }
}

fn send_content(message: &Message, content: &ReadAnswer, wanted: usize, out: &mut Vec<u8>) {
    reply::begin(out);
    let mut pieces: [&[u8]; PIECES_MAX] = [&[]; PIECES_MAX];
    match content {
        ReadAnswer::Buffer { buffer, bytes } => {
            pieces[0] = &buffer.as_slice()[..(*bytes).min(buffer.len())];
        }
        ReadAnswer::Bytes(bytes) => pieces[0] = bytes,
        ReadAnswer::Empty => {}
        ReadAnswer::Buffers(buffers) => {
            if buffers.len() > PIECES_MAX {
                return answer::error(message, Errno::EIO);
            }
            for (piece, buffer) in pieces.iter_mut().zip(buffers) {
                *piece = buffer.as_slice();
            }
        }
    }
    // More than was asked for would be an error of the whole answer.
    let mut left = wanted;
    for piece in &mut pieces {
        *piece = &piece[..piece.len().min(left)];
        left -= piece.len();
    }
    reply::finish(out, wanted - left, message.header.unique);
    let mut parts = [IoSlice::new(&[]); PIECES_MAX + 1];
    parts[0] = IoSlice::new(out);
    let mut used = 1;
    for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
        parts[used] = IoSlice::new(piece);
        used += 1;
    }
    answer::send(&message.channel, message.header.unique, &parts[..used]);
}
