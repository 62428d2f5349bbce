//! Requests of one message that are not whole: let in on their heads, kept until the rest is there, given up when it does not come.

use std::sync::Arc;

use bytes::Bytes;
use formic_core::Error;
use formic_rpc::Run;
use tokio::task::Id;
use tokio::time::Instant;

use super::answer::{Calls, Ended};
use super::door::{Admission, Entrance, Place, Turn};
use super::{Accept, Link};
use crate::machine::Request;

/// A request of one message that is not whole.
pub(super) struct Gathering {
    request: Request,
    since: Instant,
    /// How much of its message was there, and when that was looked at.
    seen: (usize, Instant),
    admission: Admission,
}

impl Gathering {
    /// Whether this task waits for its turn.
    pub(super) fn waits_on(&self, task: Id) -> bool {
        matches!(&self.admission, Admission::Waits { turn, .. } if turn.0.id() == task)
    }

    fn whole_by(&self, accept: &Accept) -> Instant {
        let Accept { default_deadline, max_deadline, .. } = *accept;
        self.since + self.request.timeout.map_or(default_deadline, |asked| asked.min(max_deadline))
    }

    /// When it must have gone on. Who waits for a turn waits for credit too.
    fn goes_on_by(&self, accept: &Accept) -> Option<Instant> {
        (!self.admission.waits()).then(|| self.seen.1 + accept.body_timeout)
    }

    fn due(&self, accept: &Accept) -> Instant {
        let others = [self.goes_on_by(accept), self.admission.until()];
        others.into_iter().flatten().fold(self.whole_by(accept), Instant::min)
    }
}

impl Calls {
    /// When one of the requests that are not whole has to be looked at.
    pub(super) fn due(&self) -> Option<Instant> {
        self.gathering.values().map(|one| one.due(&self.accept)).min()
    }

    /// Gives up requests that did not become whole in time, or of which nothing comes any more, and places that were kept for long
    /// enough.
    pub(super) fn expire(&mut self, now: Instant, link: &Link) {
        let due = |one: &Gathering| one.due(&self.accept) <= now;
        let late: Vec<u32> = self.gathering.iter().filter(|(_, one)| due(one)).map(|(id, _)| *id).collect();
        for id in late {
            let Some(one) = self.gathering.get_mut(&id) else { continue };
            let text = if one.whole_by(&self.accept) <= now {
                "the deadline passed before the request was complete"
            } else {
                one.admission.expire(now);
                if one.goes_on_by(&self.accept).is_none_or(|by| by > now) {
                    continue;
                }
                let there = link.lock().machine.unfinished(id);
                if there != one.seen.0 {
                    one.seen = (there, now);
                    continue;
                }
                "the request does not go on"
            };
            self.gathering.remove(&id);
            self.refuse(id, Error::deadline_exceeded(text));
        }
    }

    /// A request of one message that is not whole asks on its head.
    pub(super) fn arrives(&mut self, request: Request, since: Instant, link: &Arc<Link>) {
        let id = request.id;
        if let Err(error) = hold(&request, link) {
            return self.refuse(id, error);
        }
        let admission = match self.accept.door.as_ref().map(|door| door.ask(&request, self.peer.as_ref())) {
            None => Admission::Free,
            Some(Entrance::Open(place)) => Admission::Held(place, true),
            Some(Entrance::Wait(turn)) => {
                let turn = self.tasks.spawn(async move { Ended::Turn(id, turn.await) });
                Admission::Waits { whole: false, turn: Turn(turn) }
            }
            Some(Entrance::Closed(error)) => return self.refuse(id, error),
        };
        let mut state = link.lock();
        let there = if admission.waits() {
            state.machine.pause(id);
            state.machine.unfinished(id)
        } else {
            state.machine.grant(id)
        };
        drop(state);
        self.gathering.insert(id, Gathering { request, since, seen: (there, self.now), admission });
    }

    /// Whether messages were of a request that is not whole.
    pub(super) fn goes_on(
        &mut self,
        id: u32,
        messages: &mut Run,
        charge: u32,
        end: bool,
        link: &Arc<Link>,
    ) -> bool {
        let Some(mut one) = self.gathering.remove(&id) else { return false };
        let several = one.request.message.is_some();
        one.request.message = messages.next();
        let waits = one.admission.waits();
        let bytes = one.request.message.as_ref().map_or(0, Bytes::len);
        link.say(|machine| {
            if end && !waits {
                machine.work(id, bytes);
            }
            machine.consumed(id, charge);
        });
        if several || !messages.is_empty() {
            self.refuse(id, Error::invalid_argument("a call of one request came with several"));
        } else if end && !waits {
            self.whole(one.request, one.since, one.admission.into_place(), link);
        } else if let Err(error) = hold(&one.request, link) {
            self.refuse(id, error);
        } else {
            one.seen = (0, self.now);
            if let Admission::Waits { whole, .. } = &mut one.admission {
                *whole = end;
            }
            self.gathering.insert(id, one);
        }
        true
    }

    /// Whether it was a request that is whole now.
    pub(super) fn finished(&mut self, id: u32, link: &Arc<Link>) -> bool {
        let Some(mut one) = self.gathering.remove(&id) else { return false };
        if let Admission::Waits { whole, .. } = &mut one.admission {
            *whole = true;
            self.gathering.insert(id, one);
        } else {
            link.lock().machine.complete(id);
            self.whole(one.request, one.since, one.admission.into_place(), link);
        }
        true
    }

    /// The turn of a call has come, or will not.
    pub(super) fn turn(&mut self, id: u32, turn: Result<Box<dyn Place>, Error>, link: &Arc<Link>) {
        let Some(mut one) = self.gathering.remove(&id) else { return };
        self.now = Instant::now();
        let place = match turn {
            Ok(place) => place,
            Err(error) => return self.refuse(id, error),
        };
        if matches!(one.admission, Admission::Waits { whole: true, .. }) {
            link.lock().machine.complete(id);
            return self.whole(one.request, one.since, Some(place), link);
        }
        one.seen = (link.say(|machine| machine.grant(id)), self.now);
        one.admission = Admission::Held(place, true);
        self.gathering.insert(id, one);
    }

    /// A request of one message, once it is whole.
    fn whole(&mut self, request: Request, since: Instant, place: Option<Box<dyn Place>>, link: &Arc<Link>) {
        match self.accept.handle.method(&request.path) {
            Some(method) => self.answer(request, method, place, since, link),
            None => self.refuse(request.id, no_method(&request.path)),
        }
    }
}

pub(super) fn no_method(path: &str) -> Error {
    // Once noted, it is called by its number: what is said of it is not to be a hundred times as long.
    Error::unimplemented(format!("no method {}", &path[..path.floor_char_boundary(LONGEST_NAME)]))
}

/// What is said at most of the name of a method that there is not, in bytes.
const LONGEST_NAME: usize = 128;

/// Counts what is there of a request that is not whole.
fn hold(request: &Request, link: &Link) -> Result<(), Error> {
    link.lock().machine.hold(request.id, request.message.as_ref().map_or(0, Bytes::len))
}
