//! Over what calls travel, as reports tell it: noted when an attempt goes out, since what is known of an endpoint may have
//! changed by the time that the call ends.

use std::sync::atomic::{AtomicU8, Ordering};

/// Over what an attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Way {
    Http = 1,
    Multiplexed = 2,
}

/// Over what the last attempt went.
#[derive(Debug, Default)]
pub(crate) struct Last(AtomicU8);

impl Way {
    /// As reports name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Multiplexed => "multiplexed",
        }
    }
}

impl Last {
    pub(crate) fn note(&self, way: Way) {
        // Mostly it is the same as before, and the line of memory stays everybody's.
        if self.0.load(Ordering::Relaxed) != way as u8 {
            self.0.store(way as u8, Ordering::Relaxed);
        }
    }

    /// `None` before the first.
    pub(crate) fn way(&self) -> Option<Way> {
        match self.0.load(Ordering::Relaxed) {
            1 => Some(Way::Http),
            2 => Some(Way::Multiplexed),
            _ => None,
        }
    }
}
