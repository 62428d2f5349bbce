//! `formic up` and the commands beside it, as people use them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod call;
mod crash;
mod cron;
mod gateway;
mod jobs;
mod life;
mod listings;
mod manifest;
mod operate;
mod policies;
mod ports;
mod probes;
mod secrets;
mod shells;
mod start;
mod stop;
mod traffic;
mod verbs;
mod web;
mod words;
