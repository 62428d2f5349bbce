//! Which logs of instances that have ended are kept: those of the last few of each service, beside the logs of all that
//! live.
//!
//! A service's folder is listed once; from then on what an end costs does not grow with what is in it.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;

use crate::logs;

/// Logs are kept for so many instances of a service that have ended.
pub(crate) const KEEP: usize = 10;

/// The logs of what has ended.
#[derive(Debug)]
pub(crate) struct Shelf {
    dir: PathBuf,
    keep: usize,
    /// Instances that have ended, by service, oldest first.
    ended: HashMap<String, VecDeque<String>>,
}

impl Shelf {
    /// For the folders of services under `dir`.
    pub(crate) fn new(dir: PathBuf, keep: usize) -> Self {
        Self { dir, keep, ended: HashMap::new() }
    }

    /// Lists what a service has left, if that was not done before. To be called before one of it is started or
    /// ended here: of what is found then, all has ended that is not alive.
    pub(crate) fn know(&mut self, service: &str, is_alive: impl Fn(&str) -> bool) {
        if self.ended.contains_key(service) {
            return;
        }
        let mut ended: VecDeque<String> = VecDeque::new();
        // The two files of an instance can be apart; the newer one counts.
        for file in logs::files(&self.dir, &[service.to_owned()]).into_iter().rev() {
            if !is_alive(&file.instance) && !ended.contains(&file.instance) {
                ended.push_front(file.instance);
            }
        }
        self.ended.insert(service.to_owned(), ended);
        self.prune(service);
    }

    /// An instance has ended: the oldest that is one too many goes.
    pub(crate) fn ended(&mut self, service: &str, instance: &str) {
        if let Some(ended) = self.ended.get_mut(service)
            && !ended.iter().any(|known| known == instance)
        {
            ended.push_back(instance.to_owned());
            self.prune(service);
        }
    }

    fn prune(&mut self, service: &str) {
        let Some(ended) = self.ended.get_mut(service) else { return };
        let surplus = ended.len().saturating_sub(self.keep);
        for instance in ended.drain(..surplus) {
            for stream in ["out", "err"] {
                // It may never have been there; one that cannot be removed is found by the next engine.
                let _ = std::fs::remove_file(self.dir.join(service).join(format!("{instance}.{stream}.log")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::{Duration, SystemTime};

    use super::*;

    fn scratch(name: &str, instances: u64) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("formic-shelf-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("order")).unwrap();
        for at in 0..instances {
            write(&dir, at);
        }
        dir
    }

    fn write(dir: &std::path::Path, at: u64) {
        for stream in ["out", "err"] {
            let file = std::fs::File::create(dir.join(format!("order/order-{at}.{stream}.log"))).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(at)).unwrap();
        }
    }

    fn left(dir: &std::path::Path) -> Vec<String> {
        let mut left: Vec<String> = logs::files(dir, &[]).into_iter().map(|file| file.instance).collect();
        left.dedup();
        left
    }

    #[test]
    fn the_last_that_ended_are_kept_and_all_that_live() {
        let dir = scratch("live", 6);
        let mut shelf = Shelf::new(dir.clone(), 2);
        // The oldest of all is alive.
        shelf.know("order", |instance| instance == "order-0");
        assert_eq!(left(&dir), ["order-0", "order-4", "order-5"]);
        for at in 6..9 {
            write(&dir, at);
        }
        // Listed once: what has come since is alive until it is said to have ended.
        shelf.know("order", |_| false);
        assert_eq!(left(&dir).len(), 6);
        shelf.ended("order", "order-7");
        shelf.ended("order", "order-7");
        assert_eq!(left(&dir), ["order-0", "order-5", "order-6", "order-7", "order-8"]);
        shelf.ended("order", "order-0");
        assert_eq!(left(&dir), ["order-0", "order-6", "order-7", "order-8"]);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn more_live_than_are_kept_and_none_loses_its_log() {
        let dir = scratch("many", 30);
        let mut shelf = Shelf::new(dir.clone(), 2);
        shelf.know("order", |_| true);
        assert_eq!(left(&dir).len(), 30);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
