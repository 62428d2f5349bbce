//! The fuzzer's harness over its corpus and over changes of it, from a seeded generator: what a fuzzer finds in an hour is
//! found by an hour of it, but what breaks at once breaks here.

#[path = "../../../fuzz/harness.rs"]
mod harness;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use formic_mux::codec::{Frame, HEADER, Header, Type, write};

/// As long as this takes at most; there is no end by itself that would tell more.
const LIMIT: Duration = Duration::from_secs(3);

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut all: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    all.sort();
    all.iter().filter_map(|file| std::fs::read(file).ok()).collect()
}

/// Some bytes changed, doubled, taken out, words put between, or another input put behind.
fn change(chance: &mut fastrand::Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[chance.usize(..corpus.len())].clone();
    for _ in 0..chance.usize(1..8) {
        let at = chance.usize(..input.len().max(1)).min(input.len());
        match chance.u8(..8) {
            0 | 1 if at < input.len() => input[at] = chance.u8(..),
            2 if at < input.len() => input[at] ^= 1 << chance.u8(..8),
            3 if at < input.len() => drop(input.remove(at)),
            4 => input.insert(at, chance.u8(..)),
            5 => drop(input.splice(at..at, [chance.u8(0x80..), chance.u8(..)])),
            6 if !input.is_empty() => drop(input.splice(1..1, [chance.u8(0x80..), chance.u8(..)])),
            _ => input.extend_from_slice(corpus[chance.usize(..corpus.len())].get(1..).unwrap_or_default()),
        }
    }
    input
}

fn run(target: &str, harness: fn(&[u8])) {
    let (corpus, began) = (corpus(target), Instant::now());
    assert!(!corpus.is_empty());
    corpus.iter().for_each(|input| harness(input));
    let mut chance = fastrand::Rng::with_seed(7);
    for _ in 0..200_000 {
        harness(&change(&mut chance, &corpus));
        if began.elapsed() > LIMIT {
            break;
        }
    }
}

#[test]
fn nothing_from_outside_breaks_a_machine() {
    run("machine", harness::machine);
}

#[test]
fn nothing_breaks_the_reader_of_captures() {
    run("capture", harness::capture);
}

/// A stream that is read at once, whose sender answers what it is asked, and then says much before its answer comes.
fn streaming(far: bool) -> Vec<u8> {
    // A server's, in pieces of 8 KiB. Its client is 40 ms away, or beside it.
    let mut input = vec![106 << 1, if far { 0xb0 } else { 0xa0 }, 0];
    write::frame(&mut input, Type::Request, 1, |out| {
        out.push(0);
        write::varint(out, 1);
        write::bytes(out, b"/a.B/C");
        write::varint(out, 0);
    });
    let (granted, time_passes, many_times) = ([0xfa, 0], [0xca; 2], [0xbf; 2]);
    input.extend_from_slice(&granted);
    for _ in 0..7 {
        write::data(&mut input, 1, 0, b"hi");
        input.extend_from_slice(&time_passes);
    }
    write::data(&mut input, 1, 0, &[7; 1 << 10]);
    for words in [many_times, time_passes, many_times] {
        input.extend_from_slice(&words);
    }
    input
}

#[test]
fn a_short_input_has_a_stream_given_more_than_at_the_beginning() {
    for far in [true, false] {
        let (input, mut given) = (streaming(far), 64 << 10);
        assert!(input.len() < 1_500, "a fuzzer does not begin with {} bytes", input.len());
        harness::machine_heard(&input, |mut said| {
            while let Some((head, rest)) = said.split_first_chunk::<HEADER>() {
                let header = Header::parse(head).expect("a header");
                let (payload, rest) = rest.split_at(header.length);
                said = rest;
                match Frame::parse(header, payload).expect("a frame") {
                    Frame::Credit(more) if header.id == 1 => given += more,
                    Frame::GoAway { text, .. } => panic!("{text}"),
                    _ => {}
                }
            }
        });
        let came = 7 * (9 + 2) + 257 * (9 + 1024);
        assert!(came <= given, "{came} bytes came, {given} were given");
        // What was taken and not given back may be a quarter.
        assert_eq!(given - came > 160 << 10, far, "{given} were given, {came} came");
        assert!(far || given - came <= 64 << 10, "{given} were given, {came} came");
    }
}
