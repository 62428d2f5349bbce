//! Writing frames at the end of a buffer.

use bytes::BufMut;

use super::{HEADER, Type};

/// Writes a frame; the payload is what the function writes.
pub fn frame(out: &mut Vec<u8>, kind: Type, id: u32, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, kind as u8]);
    out.extend_from_slice(&id.to_be_bytes());
    payload(out);
    let length = u32::try_from(out.len() - start - HEADER).unwrap_or(u32::MAX);
    debug_assert!(length as usize <= super::MAX_PAYLOAD, "whoever writes a payload bounds it");
    out[start..start + 3].copy_from_slice(&length.to_be_bytes()[1..]);
}

/// A number of variable length.
pub fn varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A length and the bytes.
pub fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // Whoever writes bounds the length far below this.
    varint(out, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(bytes);
}

/// A data frame.
pub fn data(out: &mut Vec<u8>, id: u32, flags: u8, piece: &[u8]) {
    debug_assert!(piece.len() < super::MAX_PAYLOAD, "whoever writes a piece bounds it");
    // Of short messages there are many: one copy for all that stands before each.
    let length = piece.len() as u32 + 1;
    let mut head = [0; HEADER + 1];
    head[..4].copy_from_slice(&(length << 8 | Type::Data as u32).to_be_bytes());
    head[4..HEADER].copy_from_slice(&id.to_be_bytes());
    head[HEADER] = flags;
    out.reserve(head.len() + piece.len());
    out.extend_from_slice(&head);
    out.extend_from_slice(piece);
}

/// A frame of credit.
pub fn credit(out: &mut Vec<u8>, id: u32, more: u32) {
    frame(out, Type::Credit, id, |out| out.put_u32(more));
}

/// A ping or its answer.
pub fn ping(out: &mut Vec<u8>, flags: u8, bytes: [u8; 8]) {
    frame(out, Type::Ping, 0, |out| {
        out.push(flags);
        out.extend_from_slice(&bytes);
    });
}

/// A go-away.
pub fn go_away(out: &mut Vec<u8>, last: u32, reason: u8, text: &str) {
    frame(out, Type::GoAway, 0, |out| {
        out.put_u32(last);
        out.push(reason);
        bytes(out, text.as_bytes());
    });
}
