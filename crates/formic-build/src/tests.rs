//! Faulty protos, and what their authors get to read.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Config;

/// A directory of protos that goes when the test ends.
struct Dir(PathBuf);

impl Dir {
    fn new(files: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("formic-build-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = Self(std::env::temp_dir().join(name));
        for (name, text) in files {
            let path = dir.path("proto").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn config(&self, file: &str) -> Config {
        Config::new().include(self.path("proto")).file(file).out_dir(self.path("out"))
    }

    /// What the author reads, with the directory left out.
    fn error(&self, config: &Config) -> String {
        let text = config.compile().unwrap_err().to_string();
        assert!(!self.path("out").exists(), "nothing is written when something is wrong");
        text.replace(&format!("{}/", self.0.display()), "").replace(&self.0.display().to_string(), ".")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn expect(files: &[(&str, &str)], want: &str) {
    let dir = Dir::new(files);
    assert_eq!(dir.error(&dir.config(files[0].0)), want.trim());
}

#[test]
fn a_misspelt_message_is_shown_with_the_right_one() {
    let proto = "syntax = \"proto3\";\npackage a;\nservice S {\n\trpc Go(HelloReqest) returns (HelloRequest);\n}\nmessage HelloRequest {}\n";
    let want = "
proto/a.proto:4:9: `HelloReqest` is not defined
  |
4 | \trpc Go(HelloReqest) returns (HelloRequest);
  | \t       ^^^^^^^^^^^
  = did you mean `HelloRequest`?";
    expect(&[("a.proto", proto)], want);
}

#[test]
fn every_fault_of_a_file_is_reported() {
    let proto = "syntax = \"proto3\";\nmessage A {\n  Strin a = 1;\n  Item b = 2;\n  int32 c = 2;\n}\nmessage Itm {}\n";
    let dir = Dir::new(&[("a.proto", proto)]);
    let text = dir.error(&dir.config("a.proto"));
    assert!(text.contains("a.proto:3:3: `Strin` is not defined"), "{text}");
    assert!(text.contains("a.proto:4:3: `Item` is not defined"), "{text}");
    assert!(text.contains("did you mean `Itm`?"), "{text}");
}

#[test]
fn a_missing_import_says_where_it_was_looked_for() {
    let proto = "syntax = \"proto3\";\nimport \"shop/user/v1/user.proto\";\n";
    let want = "
proto/a.proto:2:1: import `shop/user/v1/user.proto` not found
  |
2 | import \"shop/user/v1/user.proto\";
  | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  = looked below `proto`
  = if it is elsewhere, add its root in build.rs: `Config::new().include(\"../other/proto\")`";
    expect(&[("a.proto", proto)], want);
}

#[test]
fn an_import_of_the_wrong_path_is_shown_the_right_one() {
    let proto = "syntax = \"proto3\";\nimport \"user.proto\";\n";
    let dir = Dir::new(&[("a.proto", proto), ("shop/user/v1/user.proto", "syntax = \"proto3\";\n")]);
    let text = dir.error(&dir.config("a.proto"));
    assert!(text.ends_with(" = did you mean `shop/user/v1/user.proto`?"), "{text}");
}

#[test]
fn a_missing_file_and_a_missing_root() {
    let dir = Dir::new(&[("a/v1/greeter.proto", "syntax = \"proto3\";\n")]);
    let config = dir.config("a/v1/greter.proto").include(dir.path("nowhere"));
    let want = "`a/v1/greter.proto` not found\n = looked below `proto`, `nowhere`\n = there is no directory `nowhere`\n = did you mean `a/v1/greeter.proto`?";
    assert_eq!(dir.error(&config), want);
    let nothing = Config::new().compile().unwrap_err().to_string();
    assert_eq!(nothing, "no .proto file was named");
}

#[test]
fn editions_are_refused_with_advice() {
    let want = "
proto/a.proto:1:1: editions are not supported
  |
1 | edition = \"2023\";
  | ^^^^^^^
  = write `syntax = \"proto3\";` instead";
    expect(&[("a.proto", "edition = \"2023\";\npackage a;\n")], want);
}

#[test]
fn a_name_given_twice_shows_both_places() {
    let proto = "syntax = \"proto3\";\nmessage A {}\nmessage B {}\nmessage A {}\n";
    let dir = Dir::new(&[("a.proto", proto)]);
    let text = dir.error(&dir.config("a.proto"));
    assert!(text.starts_with("proto/a.proto:4:9: name 'A' is defined twice"), "{text}");
    assert!(text.contains("first defined here: proto/a.proto:2:9"), "{text}");
}

#[test]
fn what_is_no_proto_at_all_is_shown_where_it_goes_wrong() {
    let dir = Dir::new(&[("a.proto", "syntax = \"proto3\";\nmessage A {\n  string a = 1\n}\n")]);
    let text = dir.error(&dir.config("a.proto"));
    assert!(text.starts_with("proto/a.proto:4:1: expected "), "{text}");
    assert!(text.contains("\n4 | }\n  | ^"), "{text}");
}

#[test]
fn faults_of_several_files_are_reported_together_and_once() {
    let import = "syntax = \"proto3\";\nimport \"c.proto\";\n";
    let dir = Dir::new(&[("a.proto", import), ("b.proto", import), ("c.proto", "message {}\n")]);
    let text = dir.error(&dir.config("a.proto").file("b.proto").file("d.proto"));
    assert_eq!(text.matches("c.proto:1:9").count(), 1, "{text}");
    assert!(text.contains("`d.proto` not found"), "{text}");
}

#[test]
fn an_import_cycle_is_printed() {
    let dir = Dir::new(&[
        ("a.proto", "syntax = \"proto3\";\nimport \"b.proto\";\n"),
        ("b.proto", "syntax = \"proto3\";\nimport \"a.proto\";\n"),
    ]);
    let text = dir.error(&dir.config("a.proto"));
    assert!(text.contains("a.proto -> b.proto -> a.proto"), "{text}");
}

#[test]
fn committed_code_is_two_files_that_stay_as_they_are() {
    let proto = "syntax = \"proto3\";\npackage a.v1;\nservice S { rpc Go(M) returns (M); }\nmessage M { string text = 1; }\n";
    let dir = Dir::new(&[("a/v1/a.proto", proto)]);
    let config = dir.config("a/v1/a.proto").runtime("crate::rt");
    config.compile().unwrap();
    let read = |name: &str| fs::read(dir.path("out").join(name)).unwrap();
    let (code, descriptors) = (String::from_utf8(read("formic.rs")).unwrap(), read("descriptors.bin"));
    assert!(!descriptors.is_empty());
    assert!(code.contains("include_bytes!(\"descriptors.bin\")"), "relative, so that it can be moved");
    assert!(code.contains("crate::rt::buffa::Message for M"));
    assert!(code.contains("#[serde(crate = \"crate::rt::serde\")]"));
    for foreign in [" ::buffa", "\"::buffa", "<::buffa", "(::serde", "OUT_DIR", &*dir.0.to_string_lossy()] {
        assert!(!code.contains(foreign), "{foreign}");
    }
    let written = |name: &str| fs::metadata(dir.path("out").join(name)).unwrap().modified().unwrap();
    let before = (written("formic.rs"), written("descriptors.bin"));
    config.compile().unwrap();
    assert_eq!(before, (written("formic.rs"), written("descriptors.bin")), "unchanged files are not touched");
    let entries = fs::read_dir(dir.path("out")).unwrap().count();
    assert_eq!(entries, 2);
}

#[test]
fn custom_options_need_nothing_more() {
    let options = "syntax = \"proto3\";\npackage o;\nimport \"google/protobuf/descriptor.proto\";\nextend google.protobuf.MethodOptions { string note = 50001; }\n";
    let proto = "syntax = \"proto3\";\npackage a;\nimport \"o.proto\";\nmessage M {}\nservice S { rpc Go(M) returns (M) { option (o.note) = \"x\"; } }\n";
    let dir = Dir::new(&[("a.proto", proto), ("o.proto", options)]);
    dir.config("a.proto").compile().unwrap();
    let code = fs::read_to_string(dir.path("out").join("formic.rs")).unwrap();
    assert!(!code.contains("pub mod o {") && !code.contains("buffa_descriptor"));
}

#[test]
fn messages_about_protos_are_refused() {
    let proto = "syntax = \"proto3\";\npackage a;\nimport \"google/protobuf/descriptor.proto\";\nmessage M { google.protobuf.FileDescriptorProto file = 1; }\n";
    let dir = Dir::new(&[("a.proto", proto)]);
    let text = dir.error(&dir.config("a.proto"));
    assert!(text.contains("package `a` uses messages of google/protobuf/descriptor.proto"), "{text}");
}

#[test]
fn a_full_or_forbidden_directory_is_named() {
    let dir = Dir::new(&[("a.proto", "syntax = \"proto3\";\npackage a;\nmessage M {}\n")]);
    let file = dir.path("proto/a.proto");
    let error = dir.config("a.proto").out_dir(&file).compile().unwrap_err();
    assert_eq!(error.to_string(), format!("cannot write {}", file.display()));
    assert!(std::error::Error::source(&error).is_some());
    assert!(Path::new(&file).is_file());
}
