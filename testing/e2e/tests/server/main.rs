//! `formic server`: what runs does not notice who manages it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, one of which says what it did")]

mod chaos;
mod life;
mod load;
mod zeros;
