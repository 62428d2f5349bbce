//! `formic server`: what runs does not notice who manages it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, one of which says what it did")]

mod adversaries;
mod again;
mod chaos;
mod clock;
mod copies;
mod damage;
mod door;
mod ends;
mod follow;
mod hung;
mod life;
mod load;
mod moments;
mod proxied;
mod routes;
mod unmanaged;
mod users;
mod zeros;
