//! Folders that are copied, moved, or replaced while what was started for them runs: whose it is does not change.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use formic_supervise::{Adopted, Config, Fate, Features, Outcome, Supervisor, Trampoline, sweep};

use crate::scene::{FIXTURE, Scene, all_features, features, lives};
use crate::sweep::crashed_engine;

const GRACE: Duration = Duration::from_millis(100);

/// What a killed engine has left, with and without cgroups: its processes.
async fn scenes(name: &str) -> Vec<(Scene, Features, Vec<u32>)> {
    let mut scenes = Vec::new();
    for features in [features(), all_features()] {
        let scene = Scene::of(name, features.clone());
        let pids = crashed_engine(&scene, Path::new(FIXTURE), || {}).await;
        scenes.push((scene, features, pids));
    }
    scenes
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

fn over(run_dir: &Path, features: &Features) -> Supervisor {
    let trampoline = Trampoline::new(FIXTURE);
    Supervisor::new(Config { trampoline, ..Config::new(run_dir, features.clone()) }).unwrap()
}

async fn adopted(run_dir: &Path, features: &Features) -> Vec<Adopted> {
    over(run_dir, features).adopt(GRACE).await.unwrap()
}

fn records(run_dir: &Path) -> usize {
    let names = fs::read_dir(run_dir).unwrap().map(|file| file.unwrap().path());
    names.filter(|path: &PathBuf| path.extension().is_some_and(|end| end == "json")).count()
}

/// An engine of this directory takes over what runs, and ends all of it.
async fn is_ours(run_dir: &Path, features: &Features, pids: &[u32]) {
    let heir = over(run_dir, features);
    let found = heir.adopt(GRACE).await.unwrap();
    let [Adopted { fate: Fate::Running(process), .. }] = &found[..] else { panic!("{found:?}") };
    process.stop(GRACE).await.unwrap();
    assert!(pids.iter().all(|pid| !lives(*pid)), "{pids:?}");
    assert_eq!(records(run_dir), 0);
}

#[tokio::test]
async fn a_copy_touches_nothing_of_its_original() {
    for (scene, features, pids) in scenes("copied").await {
        let (original, dir) = (scene.run_dir().to_owned(), scene.dir.join("copy"));
        copy(&original, &dir);
        let found = adopted(&dir, &features).await;
        let [Adopted { fate: Fate::Elsewhere { dir: whose }, .. }] = &found[..] else { panic!("{found:?}") };
        assert_eq!((whose, records(&dir)), (&original, 0), "its place is free");
        assert!(adopted(&dir, &features).await.is_empty());

        let dir = scene.dir.join("another");
        copy(&original, &dir);
        let swept = sweep(&dir, &features, GRACE).await.unwrap();
        assert!(
            matches!(&swept[..], [one] if one.outcome == Outcome::Elsewhere { dir: original.clone() }),
            "{swept:?}"
        );
        assert!(pids.iter().all(|pid| lives(*pid)), "{pids:?}");
        is_ours(&original, &features, &pids).await;
    }
}

#[tokio::test]
async fn a_moved_folder_keeps_what_is_its_own() {
    for (scene, features, pids) in scenes("moved").await {
        let (before, after) = (scene.run_dir().to_owned(), scene.dir.join("after"));
        fs::rename(&before, &after).unwrap();
        // One that is made in its place has nothing, neither by the mark nor by the cgroup.
        fs::create_dir(&before).unwrap();
        assert!(adopted(&before, &features).await.is_empty());
        assert!(sweep(&before, &features, GRACE).await.unwrap().is_empty());
        // Nor has its copy there; but who owns what runs can be said by people alone.
        fs::remove_dir(&before).unwrap();
        copy(&after, &before);
        let found = adopted(&before, &features).await;
        let [Adopted { fate: Fate::Quarantined { reason, .. }, .. }] = &found[..] else {
            panic!("{found:?}")
        };
        assert!(reason.contains("moved or removed"), "{reason}");
        let swept = sweep(&before, &features, GRACE).await.unwrap();
        assert!(
            matches!(&swept[..], [one] if matches!(one.outcome, Outcome::Quarantined { .. })),
            "{swept:?}"
        );
        assert!(pids.iter().all(|pid| lives(*pid)), "{pids:?}");
        is_ours(&after, &features, &pids).await;
        // Once it is gone, its place is free.
        let swept = sweep(&before, &features, GRACE).await.unwrap();
        assert!(matches!(&swept[..], [one] if one.outcome == Outcome::Gone), "{swept:?}");
        assert_eq!(records(&before), 0);
    }
}

#[tokio::test]
async fn a_record_of_an_older_engine_is_no_proof_against_the_mark() {
    let scene = Scene::new("older");
    let pids = crashed_engine(&scene, Path::new(FIXTURE), || {}).await;
    let dir = scene.dir.join("copy");
    copy(scene.run_dir(), &dir);
    let path = dir.join("crash-1.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record.as_object_mut().unwrap().retain(|field, _| field != "home" && field != "check");
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    let found = adopted(&dir, &features()).await;
    assert!(matches!(&found[..], [one] if matches!(one.fate, Fate::Quarantined { .. })), "{found:?}");
    assert!(pids.iter().all(|pid| lives(*pid)), "{pids:?}");
    is_ours(scene.run_dir(), &features(), &pids).await;
}
