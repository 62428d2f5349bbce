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

/// Data frames of whole messages that are laid out, as those of one call. Nothing is written, which is the result, if they are
/// not laid out as frames, or one of the messages is longer than `most`.
pub fn frames(out: &mut Vec<u8>, id: u32, frames: &[u8], most: usize) -> bool {
    let (start, id) = (out.len(), id.to_be_bytes());
    out.extend_from_slice(frames);
    let mut at = start;
    while let Some(head) = out[at..].first_chunk_mut::<{ HEADER + 1 }>() {
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let length = (word >> 8).wrapping_sub(1) as usize;
        if word as u8 != Type::Data as u8 || head[HEADER] != 0 || length > most {
            break;
        }
        head[4..HEADER].copy_from_slice(&id);
        at += HEADER + 1 + length;
        if at >= out.len() {
            break;
        }
    }
    let whole = at == out.len();
    if !whole {
        out.truncate(start);
    }
    whole
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_the_calls_whose_id_they_get() {
        let (mut laid_out, mut expected) = (Vec::new(), b"before".to_vec());
        for length in [0, 1, 300, super::super::MAX_PAYLOAD - 1] {
            let message = vec![length as u8; length];
            laid_out.extend_from_slice(&formic_rpc::run::head(length));
            laid_out.extend_from_slice(&message);
            data(&mut expected, 0x0102_0304, 0, &message);
        }
        let mut out = b"before".to_vec();
        assert!(frames(&mut out, 0x0102_0304, &laid_out, 1 << 20));
        assert_eq!(out, expected);
    }

    #[test]
    fn what_is_laid_out_otherwise_is_not_written() {
        let mut good = formic_rpc::run::head(3).to_vec();
        good.extend_from_slice(b"abc");
        let bad = |at: usize, byte| {
            let mut bad = [&good[..], &good].concat();
            bad[12 + at] = byte;
            bad
        };
        let cut = [&good[..], &good[..11]].concat();
        // Longer than there are bytes, and shorter; of no length at all; another type; a flag; cut.
        for bad in [bad(2, 9), bad(2, 3), bad(2, 0), bad(3, 4), bad(8, 1), cut] {
            let mut out = b"before".to_vec();
            assert!(!frames(&mut out, 1, &bad, 1 << 20), "{bad:?}");
            assert_eq!(out, b"before");
        }
        assert!(!frames(&mut Vec::new(), 1, &good, 2), "longer than the other side takes");
    }
}
