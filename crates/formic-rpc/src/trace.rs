//! W3C trace context: sixteen bytes that name a trace, eight that name a hop, one of flags.
//!
//! It lives beside the call because every transport carries it as a fixed field; exporting spans is
//! telemetry's business.

use std::fmt;
use std::str::FromStr;

/// The header that carries it.
pub const TRACEPARENT: &str = "traceparent";

/// The place of a call in a distributed trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The whole trace; never 0.
    pub trace_id: u128,
    /// This hop; never 0.
    pub span_id: u64,
    /// Whether somebody upstream records it.
    pub sampled: bool,
}

impl TraceContext {
    /// The next hop of the same trace, with an id from the caller's source of randomness.
    #[must_use]
    pub fn child(self, random: u64) -> Self {
        Self { span_id: random.max(1), ..self }
    }

    /// The header's 55 bytes.
    #[must_use]
    pub fn to_header(self) -> http::HeaderValue {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let write = |digits: &mut [u8], bytes: &[u8]| {
            for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
                pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        };
        write(&mut out[3..35], &self.trace_id.to_be_bytes());
        write(&mut out[36..52], &self.span_id.to_be_bytes());
        out[54] = if self.sampled { b'1' } else { b'0' };
        http::HeaderValue::from_bytes(&out).unwrap_or_else(|_| http::HeaderValue::from_static("00"))
    }
}

/// A header that is no trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTraceContext;

impl FromStr for TraceContext {
    type Err = InvalidTraceContext;

    fn from_str(text: &str) -> Result<Self, InvalidTraceContext> {
        // Later versions may append fields after another dash; version ff is forbidden.
        let bytes = text.as_bytes();
        let shape = bytes.len() >= 55 && bytes[2] == b'-' && bytes[35] == b'-' && bytes[52] == b'-';
        if !shape {
            return Err(InvalidTraceContext);
        }
        let version = hex(&bytes[..2])?;
        if version == 0xff || (version == 0 && bytes.len() != 55) {
            return Err(InvalidTraceContext);
        }
        let trace_id = u128::from(hex(&bytes[3..19])?) << 64 | u128::from(hex(&bytes[19..35])?);
        let (span_id, flags) = (hex(&bytes[36..52])?, hex(&bytes[53..55])?);
        if trace_id == 0 || span_id == 0 {
            return Err(InvalidTraceContext);
        }
        Ok(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

/// Up to sixteen digits, which the standard wants in lower case. By hand, since every call has 52 of them.
fn hex(digits: &[u8]) -> Result<u64, InvalidTraceContext> {
    digits.iter().try_fold(0, |value, digit| match digit {
        b'0'..=b'9' => Ok(value << 4 | u64::from(digit - b'0')),
        b'a'..=b'f' => Ok(value << 4 | u64::from(digit - b'a' + 10)),
        _ => Err(InvalidTraceContext),
    })
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_reads_back() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context: TraceContext = text.parse().expect("valid");
        assert_eq!(context.to_header().to_str().expect("ascii"), text);
        assert_eq!(context.to_string(), text);
        assert_eq!(context.child(5).trace_id, context.trace_id);
    }

    #[test]
    fn malformed_headers_are_refused() {
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-1",
        ] {
            assert!(bad.parse::<TraceContext>().is_err(), "{bad}");
        }
    }
}
