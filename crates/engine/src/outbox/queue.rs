//! What waits for a sink, in memory: which notifications there are, and when the next one of each line, a request or a review, is
//! due. The rows are in
//! the store; this is an index of them, and knows neither store nor sink.
//!
//! Notifications of one line are told one after the other. Lines are apart: one that cannot be told waits, with a wait
//! of its own that doubles, and the others go on. If several requests fail in a row, it is the sink that does not answer:
//! then one notification at a time probes it, and when it takes one, all that wait are due at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign_core::{Line, Timestamp};
use countersign_store::Place;

use super::back_off::BackOff;

/// From so many different requests on that failed, none having succeeded since, the sink counts as down.
const DOWN_AFTER: usize = 3;
/// The longest wait between two probes of a sink that is down.
const LONGEST_PROBE: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Waiting {
    /// What waits, and since when.
    waiting: BTreeMap<Place, Timestamp>,
    /// How often its first was tried.
    attempts: u32,
    due: Timestamp,
    under_way: bool,
}

/// What waits for one sink.
#[derive(Debug, Default)]
pub struct Queue {
    lines: BTreeMap<Line, Waiting>,
    len: usize,
    under_way: usize,
    /// The requests that failed since something succeeded.
    failing: BTreeSet<Line>,
    /// If the sink is down: how often it was probed in vain, and when it is probed next.
    down: Option<(u32, Timestamp)>,
}

impl Queue {
    pub const fn len(&self) -> usize {
        self.len
    }

    pub const fn is_down(&self) -> bool {
        self.down.is_some()
    }

    /// A notification waits, since a moment.
    pub fn put(&mut self, id: Line, place: Place, since: Timestamp) {
        let line = self.lines.entry(id).or_insert_with(|| Waiting {
            waiting: BTreeMap::new(),
            attempts: 0,
            due: Timestamp::from_millis(i64::MIN),
            under_way: false,
        });
        if line.waiting.insert(place, since).is_none() {
            self.len = self.len.saturating_add(1);
        }
    }

    /// A notification waits no more: it was delivered, given up, or taken away.
    pub fn remove(&mut self, id: Line, place: Place) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        let first = line.waiting.first_key_value().is_some_and(|(first, _)| *first == place);
        if line.waiting.remove(&place).is_some() {
            self.len = self.len.saturating_sub(1);
        }
        if first {
            line.attempts = 0;
            line.due = Timestamp::from_millis(i64::MIN);
        }
        self.forget_if_empty(id);
    }

    fn forget_if_empty(&mut self, id: Line) {
        if self.lines.get(&id).is_some_and(|line| line.waiting.is_empty() && !line.under_way) {
            self.lines.remove(&id);
            self.failing.remove(&id);
        }
    }

    /// What is to be tried now, if at most so many may be under way. It is under way until [`Self::delivered`] or
    /// [`Self::failed`].
    pub fn start(&mut self, now: Timestamp, at_once: usize) -> Vec<(Line, Place)> {
        let most = match self.down {
            None => at_once,
            Some((_, probe)) => usize::from(now.reached(probe)),
        };
        let free = most.saturating_sub(self.under_way);
        let ready = |line: &Waiting| !line.under_way && (self.down.is_some() || now.reached(line.due));
        let mut ready: Vec<(Timestamp, Line, Place)> = if free == 0 {
            Vec::new()
        } else {
            let firsts = self.lines.iter().filter(|(_, line)| ready(line));
            let firsts = firsts.filter_map(|(id, line)| Some((line.due, *id, *line.waiting.first_key_value()?.0)));
            // The probes of a sink go round, so that no one request makes it look down.
            if self.down.is_some() { firsts.min().into_iter().collect() } else { firsts.take(free).collect() }
        };
        ready.truncate(free);
        for (_, id, _) in &ready {
            if let Some(line) = self.lines.get_mut(id) {
                line.under_way = true;
                self.under_way = self.under_way.saturating_add(1);
            }
        }
        ready.into_iter().map(|(_, id, place)| (id, place)).collect()
    }

    fn ended(&mut self, id: Line) {
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(line) = self.lines.get_mut(&id) {
            line.under_way = false;
        }
    }

    /// The sink took it.
    pub fn delivered(&mut self, id: Line, place: Place) {
        self.ended(id);
        self.remove(id, place);
        self.forget_if_empty(id);
        self.failing.clear();
        if self.down.take().is_some() {
            self.lines.values_mut().for_each(|line| line.due = Timestamp::from_millis(i64::MIN));
        }
    }

    /// What was under way is not there any more, so that nothing was tried.
    pub fn gone(&mut self, id: Line, place: Place) {
        self.ended(id);
        self.remove(id, place);
        self.forget_if_empty(id);
    }

    /// The sink did not take it. Answers how often it was tried.
    pub fn failed(&mut self, id: Line, now: Timestamp, back_off: &BackOff) -> u32 {
        self.ended(id);
        let Some(line) = self.lines.get_mut(&id) else { return 0 };
        line.attempts = line.attempts.saturating_add(1);
        line.due = now.plus(back_off.wait(line.attempts));
        let attempts = line.attempts;
        self.failing.insert(id);
        self.down = match self.down {
            Some((probes, _)) => Some(probes.saturating_add(1)),
            None if self.failing.len() >= DOWN_AFTER => Some(1),
            None => None,
        }
        .map(|probes| (probes, now.plus(back_off.wait(probes).min(LONGEST_PROBE))));
        self.forget_if_empty(id);
        attempts
    }

    /// When something is due next, if nothing else happens and so many may be under way.
    pub fn wake(&self, at_once: usize) -> Option<Timestamp> {
        let most = if self.down.is_some() { 1 } else { at_once };
        if self.under_way >= most {
            // What ends wakes.
            return None;
        }
        match self.down {
            Some((_, probe)) => (self.len > 0).then_some(probe),
            None => self.lines.values().filter(|line| !line.under_way).map(|line| line.due).min(),
        }
    }

    /// What has waited for too long in vain, and what is too much: the oldest requests first. Never what is under way.
    pub fn hopeless(&self, now: Timestamp, max_age: Duration, backlog: usize) -> Vec<(Line, Place, u32)> {
        let mut too_many = self.len.saturating_sub(backlog);
        let mut hopeless = Vec::new();
        for (id, line) in self.lines.iter().filter(|(_, line)| !line.under_way) {
            let in_vain = line.attempts > 0 || self.down.is_some();
            for (number, (place, since)) in line.waiting.iter().enumerate() {
                let old = in_vain && now.reached(since.plus(max_age));
                if old || too_many > 0 {
                    too_many = too_many.saturating_sub(1);
                    hopeless.push((*id, *place, if number == 0 { line.attempts } else { 0 }));
                }
            }
        }
        hopeless
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn id(n: u8) -> Line {
        Line::from_bytes([n; 16])
    }

    fn place(read: u64) -> Place {
        Place { read, number: 0 }
    }

    fn back_off() -> BackOff {
        BackOff { first: Duration::from_secs(1), longest: Duration::from_secs(600), jitter: Arc::new(|| 0) }
    }

    /// A queue of one notification each at these places of these requests.
    fn queue(places: &[(u8, u64)]) -> Queue {
        let mut queue = Queue::default();
        for (request, read) in places {
            queue.put(id(*request), place(*read), at(0));
        }
        queue
    }

    #[test]
    fn a_request_is_told_in_order_and_others_go_on_meanwhile() {
        let mut queue = queue(&[(1, 0), (1, 5), (1, 9), (2, 0)]);
        assert_eq!(queue.start(at(0), 4), [(id(1), place(0)), (id(2), place(0))]);
        assert_eq!(queue.start(at(0), 4), []);
        queue.failed(id(1), at(0), &back_off());
        queue.delivered(id(2), place(0));
        assert_eq!(queue.start(at(0), 4), [], "it waits before it is tried again");
        assert_eq!(queue.wake(4), Some(at(1)));
        assert_eq!(queue.start(at(1), 4), [(id(1), place(0))]);
        queue.delivered(id(1), place(0));
        assert_eq!(queue.start(at(1), 4), [(id(1), place(5))]);
        queue.delivered(id(1), place(5));
        assert_eq!(queue.start(at(1), 4), [(id(1), place(9))]);
        queue.delivered(id(1), place(9));
        assert_eq!((queue.len(), queue.lines.len()), (0, 0));
    }

    #[test]
    fn no_more_are_under_way_than_may_be() {
        let mut queue = queue(&[(1, 0), (2, 0), (3, 0)]);
        assert_eq!(queue.start(at(0), 2).len(), 2);
        assert_eq!(queue.start(at(0), 2), []);
        queue.delivered(id(1), place(0));
        assert_eq!(queue.start(at(0), 2), [(id(3), place(0))]);
    }

    #[test]
    fn a_request_that_fails_alone_does_not_make_the_sink_look_down() {
        let mut queue = queue(&[(1, 0)]);
        for attempt in 1..=20 {
            let now = queue.wake(4).unwrap().max(at(0));
            assert_eq!(queue.start(now, 4), [(id(1), place(0))]);
            assert_eq!(queue.failed(id(1), now, &back_off()), attempt);
        }
        assert!(!queue.is_down());
        queue.put(id(2), place(0), at(0));
        assert_eq!(queue.start(at(0), 4), [(id(2), place(0))]);
    }

    #[test]
    fn a_sink_that_is_down_is_probed_and_gets_everything_when_it_answers() {
        let mut queue = queue(&[(1, 0), (2, 0), (3, 0), (4, 0)]);
        for (id, _) in queue.start(at(0), 4) {
            queue.failed(id, at(0), &back_off());
        }
        assert!(queue.is_down());
        let mut probed = BTreeSet::new();
        for _ in 0..8 {
            let now = queue.wake(4).unwrap();
            assert_eq!(queue.start(at(0), 4), [], "not before its time");
            let probe = queue.start(now, 4);
            assert_eq!((probe.len(), queue.start(now, 4).len(), queue.wake(4)), (1, 0, None));
            probed.insert(probe[0].0);
            queue.failed(probe[0].0, now, &back_off());
            assert!(queue.wake(4).unwrap().since(now) <= LONGEST_PROBE);
        }
        assert_eq!(probed.len(), 4, "probes go round");
        let now = queue.wake(4).unwrap();
        let probe = queue.start(now, 4)[0];
        queue.delivered(probe.0, probe.1);
        assert_eq!((queue.is_down(), queue.start(now, 4).len()), (false, 3));
    }

    #[test]
    fn what_is_too_old_or_too_much_is_hopeless_and_what_was_never_tried_is_not_too_old() {
        let (day, mut queue) = (Duration::from_secs(86_400), queue(&[(1, 0), (1, 5), (2, 0)]));
        assert_eq!(queue.hopeless(at(100_000), day, 10), [], "the service may have been down for so long");
        assert_eq!(queue.hopeless(at(0), day, 1), [(id(1), place(0), 0), (id(1), place(5), 0)]);
        assert_eq!(queue.start(at(100_000), 1), [(id(1), place(0))]);
        assert_eq!(queue.hopeless(at(0), day, 2), [(id(2), place(0), 0)], "not what is under way");
        queue.failed(id(1), at(100_000), &back_off());
        assert_eq!(queue.hopeless(at(100_000), day, 10), [(id(1), place(0), 1), (id(1), place(5), 0)]);
    }
}
