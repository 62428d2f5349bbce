//! `formic server`: what runs does not notice who manages it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod chaos;
mod life;
