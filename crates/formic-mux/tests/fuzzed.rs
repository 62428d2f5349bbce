//! The fuzzer's harness over its corpus and over changes of it, from a seeded generator: what a fuzzer finds in an hour is
//! found by an hour of it, but what breaks at once breaks here.

#[path = "../../../fuzz/harness.rs"]
mod harness;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// As long as this takes at most; there is no end by itself that would tell more.
const LIMIT: Duration = Duration::from_secs(3);

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut all: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    all.sort();
    all.iter().filter_map(|file| std::fs::read(file).ok()).collect()
}

/// Some bytes changed, doubled, taken out, or another input put behind.
fn change(chance: &mut fastrand::Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[chance.usize(..corpus.len())].clone();
    for _ in 0..chance.usize(1..8) {
        let at = chance.usize(..input.len().max(1)).min(input.len());
        match chance.u8(..6) {
            0 | 1 if at < input.len() => input[at] = chance.u8(..),
            2 if at < input.len() => input[at] ^= 1 << chance.u8(..8),
            3 if at < input.len() => drop(input.remove(at)),
            4 => input.insert(at, chance.u8(..)),
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
