//! Rules as a pick uses them.

use formic_core::Instance;

use super::zone;
use crate::traffic::{Filter, Rule};

/// A rule with the groups that it leads to.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) name: Box<str>,
    when: Vec<(Box<str>, Matches)>,
    pub(crate) targets: Vec<Target>,
    pub(crate) strict: bool,
}

/// A group and its share.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) weight: u64,
    pub(crate) group: usize,
    /// What it asks of instances, for people.
    pub(crate) who: Box<str>,
}

#[derive(Debug)]
enum Matches {
    Prefix(Box<str>),
    Exactly(Box<str>),
}

/// A condition on an instance.
pub(crate) enum Fit<'a> {
    Is(&'a Filter),
    IsNot(&'a Filter),
}

// === impl Compiled ===

impl Compiled {
    pub(crate) fn new(rule: &Rule, targets: Vec<Target>) -> Self {
        let when = rule.when.iter().map(|(name, value)| {
            let matches = match value.strip_suffix('*') {
                Some(prefix) => Matches::Prefix(prefix.into()),
                None => Matches::Exactly(value.as_str().into()),
            };
            (name.as_str().into(), matches)
        });
        Self { name: rule.name.as_str().into(), when: when.collect(), targets, strict: rule.strict }
    }

    /// Whether it is about calls with this metadata.
    pub(crate) fn is_about<'a>(&self, metadata: &dyn Fn(&str) -> Option<&'a str>) -> bool {
        self.when.iter().all(|(name, matches)| {
            metadata(name).is_some_and(|value| match matches {
                Matches::Prefix(prefix) => value.starts_with(&**prefix),
                Matches::Exactly(text) => *value == **text,
            })
        })
    }
}

// === impl Fit ===

impl Fit<'_> {
    pub(crate) fn matches(&self, instance: &Instance) -> bool {
        match self {
            Self::Is(filter) => fits(filter, instance),
            Self::IsNot(filter) => filter.is_empty() || !fits(filter, instance),
        }
    }
}

fn fits(filter: &Filter, instance: &Instance) -> bool {
    filter.version.as_ref().is_none_or(|version| instance.version == *version)
        && filter.zone.as_ref().is_none_or(|wanted| zone(instance) == Some(wanted))
        && filter.labels.iter().all(|(name, value)| instance.metadata.get(name) == Some(value))
}

/// What each target of a rule asks of instances, with its weight: the rule's own conditions, and its.
pub(crate) fn targets(rule: &Rule) -> Vec<(u64, Vec<Fit<'_>>)> {
    let own = || vec![Fit::Is(&rule.to), Fit::IsNot(&rule.except)];
    if rule.split.is_empty() {
        return vec![(1, own())];
    }
    let mut all = Vec::with_capacity(rule.split.len());
    for share in &rule.split {
        let mut fits = own();
        fits.extend([Fit::Is(&share.to), Fit::IsNot(&share.except)]);
        all.push((u64::from(share.weight), fits));
    }
    all
}

/// What a target of a rule asks of instances, for people.
pub(crate) fn describe(rule: &Rule, at: usize) -> String {
    let share = rule.split.get(at).filter(|share| !(share.to.is_empty() && share.except.is_empty()));
    let (to, except) = share.map_or((&rule.to, &rule.except), |share| (&share.to, &share.except));
    match (to.is_empty(), except.is_empty()) {
        (false, true) => format!("has {to}"),
        (true, false) => format!("is without {except}"),
        _ => format!("has {to} without {except}"),
    }
}

/// Says, for people, what becomes of calls whose targets match nobody. `nobody` says of which targets that is so.
pub(crate) fn notes(rule: &Rule, targets: &[Target], nobody: impl Fn(&Target) -> bool) -> Vec<String> {
    let counted = || targets.iter().enumerate().filter(|(_, target)| target.weight > 0);
    let empty: Vec<_> =
        counted().filter(|(_, target)| nobody(target)).map(|(at, _)| describe(rule, at)).collect();
    let note = |who: &str, fallback: &str| format!("rule {:?}: no instance {who}, so {fallback}", rule.name);
    if empty.len() < counted().count() {
        return empty.iter().map(|who| note(who, "its share goes to the others")).collect();
    }
    let fallback = if rule.strict { "its calls fail" } else { "the rule is passed over" };
    if empty.is_empty() { Vec::new() } else { vec![note(&empty.join(", none "), fallback)] }
}
