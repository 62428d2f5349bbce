//! Secrets in decisions: which version an instance is given, when its files go, and what is kept to go back to.

use super::*;
use crate::secrets::Given;

/// `user`, which is given a version of a secret; each version is a revision.
fn user(version: u64) -> Service {
    let mut service = service("user", 1, &[]);
    let mut start: Start = serde_json::from_value(service.start).unwrap();
    let given = Given { secret: "password".into(), version, env: None };
    start.secrets = BTreeMap::from([("db".to_owned(), given)]);
    service.start = serde_json::to_value(start).unwrap();
    service.revision = Revision::of(&version.into());
    service
}

impl World {
    /// The version of the last instance that was to be started.
    fn given(&self) -> u64 {
        let start = self.core.roster.cell(&self.id("user/0")).unwrap().start.clone();
        start.unwrap().secrets["db"].version
    }
}

#[test]
fn files_go_with_their_instance_and_the_versions_that_one_can_go_back_to_are_kept() {
    let mut world = World::new(Vec::new());
    let state = State::in_memory().unwrap();
    world.core.restore(&state, "boot", world.now()).unwrap();
    world.state = Some(state);
    world.apply(vec![user(1)], None).1.unwrap();
    assert_eq!(world.given(), 1);
    let first = world.id("user/0");
    world.up("user/0");
    // It crashes: the next one gets files of its own.
    world.after(20_000);
    world.leader_exits("user/0", 1);
    let lines = world.gone("user/0", false);
    assert!(lines.contains(&"take back user/0".to_owned()), "{lines:?}");
    assert_ne!(world.id("user/0"), first);
    world.up("user/0");
    // Another version, and back.
    world.apply(vec![user(2)], None).1.unwrap();
    let secrets = |world: &World| -> Vec<BTreeSet<u64>> {
        let kept = world.state.as_ref().unwrap().generations().unwrap();
        kept.into_iter().map(|generation| generation.secrets["password"].clone()).collect()
    };
    assert_eq!(secrets(&world), [BTreeSet::from([1]), BTreeSet::from([2])]);
    // One that could not be started has left nothing.
    world.ids.insert("user/1".into(), world.core.roster.observed().instances.last().unwrap().id.clone());
    let failed = world.id("user/1");
    let lines = world.handle(Event::NotStarted { id: failed, why: "no".into(), withheld: false });
    assert!(lines.iter().any(|line| line.starts_with("take back")), "{lines:?}");
    // What instances need is written down by name and version alone.
    let noted = serde_json::to_value(world.core.noted(&world.id("user/0"))).unwrap();
    let given = &noted[1]["start"]["secrets"]["db"];
    assert_eq!(given, &serde_json::json!({ "secret": "password", "version": 1 }));
}

#[test]
fn a_version_shows_in_a_difference_and_nothing_else_of_a_secret_does() {
    let changes = crate::diff::diff(&[user(1)], &[user(2)]);
    let field = changes[0].fields.iter().find(|field| field.field == "secrets.db.version").unwrap();
    assert_eq!((field.from.as_str(), field.to.as_str()), ("1", "2"));
}
