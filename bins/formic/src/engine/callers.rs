//! The callers of the application: who attends to the engine, and what they answer when they are asked.
//!
//! A question goes to all of them at once and is waited for only so long: a caller that hangs is named and does not
//! keep people from what the others see.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use formic_api::control::v1 as pb;
use futures::future::join_all;
use tokio::sync::{mpsc, oneshot};

/// How long an answer may take: it is made of what is in memory, on this machine.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Questions that a caller may have before it has answered any.
const QUEUE: usize = 16;

/// Everybody who attends. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Callers {
    inner: Arc<Mutex<Inner>>,
    /// How long an answer may take.
    patience: Duration,
}

impl Default for Callers {
    fn default() -> Self {
        Self { inner: Arc::default(), patience: PATIENCE }
    }
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    attending: BTreeMap<u64, Attending>,
    /// Who waits for which answer.
    open: HashMap<u64, oneshot::Sender<pb::ReportRequest>>,
}

#[derive(Debug)]
struct Attending {
    caller: pb::Caller,
    questions: mpsc::Sender<pb::Question>,
}

/// A caller's place; it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    callers: Callers,
    number: u64,
    pub(crate) questions: mpsc::Receiver<pb::Question>,
}

/// A question on its way: to whom, its number, and where the answer comes.
type Asked = (pb::Caller, u64, oneshot::Receiver<pb::ReportRequest>);

/// What came of a question.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// The answers, by the name of who gave them.
    pub(crate) given: Vec<(pb::Caller, pb::ReportRequest)>,
    /// Who gave none in time.
    pub(crate) silent: Vec<pb::Caller>,
}

/// Whether a caller is meant: an instance, or any of a service.
fn is_meant(caller: &pb::Caller, from: &str) -> bool {
    from.is_empty() || caller.instance == from || caller.service == from
}

// === impl Callers ===

impl Callers {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a caller in. One that comes again takes the place of its earlier self.
    pub(crate) fn attend(&self, caller: pb::Caller) -> Place {
        let (sender, questions) = mpsc::channel(QUEUE);
        let mut inner = self.inner();
        inner.attending.retain(|_, attending| attending.caller != caller);
        inner.next += 1;
        let number = inner.next;
        inner.attending.insert(number, Attending { caller, questions: sender });
        Place { callers: self.clone(), number, questions }
    }

    /// Whether anybody of this name attends.
    pub(crate) fn knows(&self, from: &str) -> bool {
        self.inner().attending.values().any(|attending| is_meant(&attending.caller, from))
    }

    /// Takes an answer; whoever asked may have left.
    pub(crate) fn report(&self, report: pb::ReportRequest) {
        let asked = self.inner().open.remove(&report.number);
        if let Some(asked) = asked {
            let _ = asked.send(report);
        }
    }

    /// Puts a question to all that are meant.
    fn put(&self, service: &str, from: &str, readmit: &str) -> Vec<Asked> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let mut asked = Vec::new();
        for attending in inner.attending.values().filter(|attending| is_meant(&attending.caller, from)) {
            inner.next += 1;
            let number = inner.next;
            let (sender, answer) = oneshot::channel();
            let question = pb::Question {
                number,
                service: service.to_owned(),
                readmit: readmit.to_owned(),
                ..Default::default()
            };
            // A full queue is a caller that has not answered for a while; its answer stays out, and it is named.
            if attending.questions.try_send(question).is_ok() {
                inner.open.insert(number, sender);
            }
            asked.push((attending.caller.clone(), number, answer));
        }
        asked
    }

    /// Asks all that are meant, at once.
    pub(crate) async fn ask(&self, service: &str, from: &str, readmit: &str) -> Answers {
        let asked = self.put(service, from, readmit);
        let answering = asked.into_iter().map(|(caller, number, answer)| async move {
            let answer = tokio::time::timeout(self.patience, answer).await.ok().and_then(Result::ok);
            (caller, number, answer)
        });
        let mut answers = Answers::default();
        for (caller, number, answer) in join_all(answering).await {
            match answer {
                Some(answer) => answers.given.push((caller, answer)),
                None => {
                    self.inner().open.remove(&number);
                    answers.silent.push(caller);
                }
            }
        }
        answers.given.sort_by(|(one, _), (other, _)| one.instance.cmp(&other.instance));
        answers.silent.sort_by(|one, other| one.instance.cmp(&other.instance));
        answers
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.callers.inner().attending.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn caller(instance: &str) -> pb::Caller {
        let service = instance.split('-').next().unwrap_or_default();
        pb::Caller { instance: instance.into(), service: service.into(), ..Default::default() }
    }

    /// Answers every question that comes.
    fn answering(callers: &Callers, instance: &str) -> tokio::task::JoinSet<()> {
        let (mut place, callers) = (callers.attend(caller(instance)), callers.clone());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            while let Some(question) = place.questions.recv().await {
                let readmitted = !question.readmit.is_empty();
                callers.report(pb::ReportRequest {
                    number: question.number,
                    readmitted,
                    ..Default::default()
                });
            }
        });
        tasks
    }

    fn names(answers: &Answers) -> (Vec<&str>, Vec<&str>) {
        let given = answers.given.iter().map(|(caller, _)| caller.instance.as_str()).collect();
        (given, answers.silent.iter().map(|caller| caller.instance.as_str()).collect())
    }

    #[tokio::test]
    async fn all_are_asked_at_once_and_who_is_silent_is_named() {
        let callers = Callers { patience: Duration::from_millis(200), ..Callers::default() };
        let (_b, _a) = (answering(&callers, "b-1"), answering(&callers, "a-1"));
        let mut hung = callers.attend(caller("a-2"));
        let answers = callers.ask("order", "", "").await;
        assert_eq!(names(&answers), (vec!["a-1", "b-1"], vec!["a-2"]));
        // Its queue fills up, and it is still only named.
        (0..2 * QUEUE).for_each(|_| drop(callers.put("order", "a-2", "")));
        assert_eq!(names(&callers.ask("order", "a", "").await), (vec!["a-1"], vec!["a-2"]));
        // An answer that comes too late is nobody's.
        let late = hung.questions.recv().await.unwrap();
        callers.report(pb::ReportRequest { number: late.number, ..Default::default() });
        drop(hung);
        assert_eq!(names(&callers.ask("order", "", "").await), (vec!["a-1", "b-1"], vec![]));
        assert!(callers.inner().open.len() < QUEUE, "nobody waits for what came too late");
    }

    #[tokio::test]
    async fn one_caller_or_one_service_may_be_meant() {
        let callers = Callers::default();
        let (_b, _a) = (answering(&callers, "b-1"), answering(&callers, "a-1"));
        assert_eq!(names(&callers.ask("order", "b-1", "").await).0, ["b-1"]);
        let answers = callers.ask("order", "a", "order-1").await;
        assert!(answers.given[0].1.readmitted);
        assert!(callers.knows("a") && !callers.knows("c"));
    }

    #[tokio::test]
    async fn who_comes_again_is_asked_once() {
        let callers = Callers::default();
        let earlier = callers.attend(caller("a-1"));
        let _now = answering(&callers, "a-1");
        drop(earlier);
        assert_eq!(names(&callers.ask("order", "", "").await), (vec!["a-1"], vec![]));
    }
}
