//! Reading the parts of a payload; nothing is taken that is not there.

use super::Fault;

const SHORT: Fault = Fault("a frame ends before its time");

/// What is left of a payload.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next bytes, of a length known beforehand.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// If there is none.
    pub fn u8(&mut self) -> Result<u8, Fault> {
        self.array().map(|[byte]| byte)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_be_bytes)
    }

    /// A number of variable length.
    ///
    /// # Errors
    /// If it ends too soon, or does not fit 32 bits.
    pub fn varint(&mut self) -> Result<u32, Fault> {
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return u32::try_from(value).map_err(|_| Fault("a number is too large"));
            }
        }
        Err(Fault("a number has too many bytes"))
    }

    /// A length and so many bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.varint()?;
        self.take(length as usize)
    }

    /// The same, which must be UTF-8.
    ///
    /// # Errors
    /// If there are fewer, or they are none.
    pub fn text(&mut self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Fault("text is not UTF-8"))
    }

    /// The end of a payload.
    ///
    /// # Errors
    /// If something is left.
    pub fn end(self) -> Result<(), Fault> {
        if self.0.is_empty() { Ok(()) } else { Err(Fault("a frame goes on after its end")) }
    }
}
