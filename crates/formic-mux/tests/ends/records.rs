//! Records of connections: in a series of files, cut short, damaged, of something else.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use formic_mux::Limits;
use formic_mux::capture::{Capture, Direction, MAGIC, Recording, Series, Unreadable, decode};
use formic_mux::codec::{Type, write};

use crate::rig::*;

/// A folder of its own, which is gone after the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("formic-records-{}-{:x}", std::process::id(), fastrand::u64(..));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn files(&self) -> Vec<String> {
        let name = |entry: std::fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut files: Vec<_> =
            std::fs::read_dir(&self.0).unwrap().map(|entry| name(entry.unwrap())).collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn lines(record: &[u8]) -> (Vec<String>, Result<(), Unreadable>) {
    let mut lines = Vec::new();
    let ended = decode(record, |said| lines.push(said.to_string()));
    (lines, ended)
}

#[tokio::test]
async fn a_series_has_a_file_for_each_connection_and_none_for_none() {
    const MOST: u64 = 4096;
    let folder = Folder::new();
    let path = folder.0.join("call");
    let series = Arc::new(Series::create(&path, MOST).unwrap());
    assert!(Series::create(&path, MOST).is_err(), "nothing is written over");
    for round in 1..=2 {
        let mut with = with();
        with.capture = Some(Recording::Series(Arc::clone(&series)));
        // Nor is a machine that sleeps over a call to be asked whether it lives.
        with.ping = std::time::Duration::from_secs(60);
        let rig = rig_with(Limits::default(), with).await;
        for _ in 0..round {
            say(&rig.sender, "/t.Echo/Say", Bytes::from(vec![b'a'; 1500])).await.unwrap();
        }
    }
    let second = folder.0.join("call.2");
    assert_eq!(series.files(), [(path.clone(), false), (second.clone(), true)]);
    for file in [&path, &second] {
        let metadata = std::fs::metadata(file).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert!(metadata.len() <= MOST, "{} bytes", metadata.len());
        let (lines, ended) = lines(&std::fs::read(file).unwrap());
        assert!(ended.is_ok() && lines.len() == 4, "two greetings, a call and its answer: {lines:?}");
    }
    series.close();
    let mut with = with();
    with.capture = Some(Recording::Series(Arc::clone(&series)));
    let rig = rig_with(Limits::default(), with).await;
    say(&rig.sender, "/t.Echo/Say", "a".into()).await.unwrap();
    drop((rig, series));
    assert_eq!(
        folder.files(),
        ["call", "call.2"],
        "what was recorded stays, and nothing comes after the end"
    );
    drop(Series::create(&folder.0.join("none"), MOST).unwrap());
    assert_eq!(folder.files(), ["call", "call.2"]);
}

#[test]
fn what_is_not_whole_is_read_as_far_as_it_is_good() {
    let folder = Folder::new();
    let path = folder.0.join("record");
    let mut capture = Capture::create(&path, u64::MAX).unwrap();
    let mut greeting = Vec::new();
    Limits::default().write(&mut greeting);
    capture.record(Direction::Up, &greeting);
    capture.record(Direction::Down, &greeting);
    drop(capture);
    let whole = std::fs::read(&path).unwrap();
    let (all, ended) = lines(&whole);
    assert!(ended.is_ok() && all.len() == 2, "{all:?}");
    for length in 0..whole.len() {
        let (lines, ended) = lines(&whole[..length]);
        let first = 8 + 13 + greeting.len();
        match length {
            0..8 => assert!(matches!(ended, Err(Unreadable::Foreign)), "{length}: {ended:?}"),
            8 => assert!(ended.is_ok() && lines.is_empty()),
            _ if length == first => assert!(ended.is_ok() && lines.len() == 1),
            _ => {
                assert!(matches!(ended, Err(Unreadable::Cut)), "{length}: {ended:?}");
                assert_eq!(lines.first() == all.first(), length >= first, "{length}: {lines:?}");
                let part = lines.last().is_some_and(|line| line.contains("unfinished"));
                assert_eq!(part, (22..first).contains(&length) || length > first + 13, "{length}: {lines:?}");
            }
        }
    }
    let (lines, ended) = lines(&[&whole[..], b"nonsense, for some bytes"].concat());
    assert!(matches!(ended, Err(Unreadable::Damaged(2))) && lines == all, "{ended:?}");
}

#[test]
fn what_is_no_frame_is_said_to_be_none() {
    let folder = Folder::new();
    let path = folder.0.join("record");
    let mut capture = Capture::create(&path, u64::MAX).unwrap();
    let mut greeting = Vec::new();
    Limits::default().write(&mut greeting);
    capture.record(Direction::Up, &greeting);
    capture.record(Direction::Down, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    drop(capture);
    let (lines, ended) = lines(&std::fs::read(&path).unwrap());
    assert!(matches!(ended, Err(Unreadable::Spoken { from: Direction::Down, .. })), "{ended:?}");
    assert_eq!(ended.unwrap_err().to_string(), "holds what is no frame, from the server");
    assert!(lines.len() == 1 && lines[0].contains("→ greeting"), "{lines:?}");
}

/// A capture of one record: a greeting, and what comes after it.
fn recorded(frames: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Limits::default().write(&mut bytes);
    bytes.extend_from_slice(frames);
    let mut file = MAGIC.to_vec();
    file.push(0);
    file.extend_from_slice(&[0; 8]);
    file.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
    file.extend_from_slice(&bytes);
    file
}

/// A request of nothing but metadata.
fn pairs(out: &mut Vec<u8>, count: u32, pairs: impl FnOnce(&mut Vec<u8>)) {
    write::frame(out, Type::Request, 1, |out| {
        out.push(0x80);
        write::varint(out, 1);
        write::bytes(out, b"/a");
        write::varint(out, count);
        pairs(out);
    });
}

fn define(out: &mut Vec<u8>, place: u32, value: &[u8]) {
    write::varint(out, place << 1 | 1);
    write::bytes(out, b"name");
    write::bytes(out, value);
}

#[test]
fn no_frame_makes_a_line_that_is_much_longer() {
    let mut frames = Vec::new();
    pairs(&mut frames, 1, |out| define(out, 0, &[b'v'; 60_000]));
    pairs(&mut frames, 60_000, |out| out.resize(out.len() + 60_000, 2));
    let (lines, ended) = lines(&recorded(&frames));
    assert!(ended.is_ok() && lines.len() == 3, "{ended:?}");
    assert!(lines[1].contains(&"v".repeat(60_000)), "what is on the wire is said");
    let (length, end) = (lines[2].len(), &lines[2][lines[2].len() - 60..]);
    assert!(
        length < 70_000 && lines[2].contains(" name=vvv") && end.contains("more pairs"),
        "{length}: {end}"
    );
}

#[test]
fn a_capture_of_many_frames_and_places_is_read_in_time() {
    // Each frame moves what is left of its record, and each place was looked for among all: this takes minutes then.
    let mut frames = Vec::new();
    for round in 0..40 {
        pairs(&mut frames, 5_000, |out| (0..5_000).for_each(|n| define(out, round * 5_000 + n, b"")));
    }
    for _ in 0..100_000 {
        write::credit(&mut frames, 0, 1);
    }
    let (file, mut said) = (recorded(&frames), 0);
    let began = std::time::Instant::now();
    decode(&file[..], |_| said += 1).unwrap();
    assert_eq!(said, 100_041);
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
}

/// Set for the process that may write only so much.
const CRAMPED: &str = "FORMIC_TEST_CRAMPED";

#[test]
fn a_record_that_cannot_be_written_ends_with_what_is_whole() {
    if let Some(path) = std::env::var_os(CRAMPED) {
        let mut capture = Capture::create(path.as_ref(), u64::MAX).unwrap();
        let mut greeting = Vec::new();
        Limits::default().write(&mut greeting);
        capture.record(Direction::Up, &greeting);
        // Of this one only a part has room, and what comes after it would have.
        capture.record(Direction::Down, &[0; 600_000]);
        capture.record(Direction::Down, &greeting);
        return;
    }
    let folder = Folder::new();
    let path = folder.0.join("record");
    // A file that becomes larger is an error there, and no signal.
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact \"$1\"";
    let status = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg("records::a_record_that_cannot_be_written_ends_with_what_is_whole")
        .env(CRAMPED, &path)
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success());
    let record = std::fs::read(&path).unwrap();
    let (lines, ended) = lines(&record);
    assert!(ended.is_ok() && lines.len() == 1 && record.len() < 200, "{ended:?}: {lines:?}");
}

#[test]
fn a_record_in_a_folder_is_bounded() {
    let folder = Folder::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut with = with();
        with.capture = Some(Recording::Folder(folder.0.clone()));
        let rig = rig_with(Limits::default(), with).await;
        let long = Bytes::from(vec![7; 4 << 20]);
        // Both ways: 80 MiB.
        for _ in 0..10 {
            assert!(
                within("an answer", say(&rig.sender, "/t.Echo/Say", long.clone())).await.unwrap() == long
            );
        }
    });
    let [file] = &folder.files()[..] else { panic!("{:?}", folder.files()) };
    let length = std::fs::metadata(folder.0.join(file)).unwrap().len();
    assert!((60 << 20..=64 << 20).contains(&length), "{length} bytes");
    let record = std::fs::File::open(folder.0.join(file)).unwrap();
    let ended = decode(record, |_| {});
    assert!(ended.is_ok(), "{ended:?}");
}
