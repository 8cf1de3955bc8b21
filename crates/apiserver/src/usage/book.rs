//! The last samples of one node, and which two of them tell what is used now.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stdx::Mono;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::sample::Sample;

/// A sample is as good as new for so long: a person who asks again does not wait.
const FRESH: Duration = Duration::from_secs(3);
/// The shortest time between two samples that say something together; what a first answer costs.
const APART_MIN: Duration = Duration::from_secs(1);
/// Two samples so far apart even out what comes in bursts; nearer ones are taken when there are no others.
const APART_GOOD: Duration = Duration::from_secs(10);
/// A sample older than this says nothing of now.
const AGE_MAX: Duration = Duration::from_secs(60);
const SAMPLES_MAX: usize = 24;

/// Two samples, apart.
pub(super) struct Pair {
    pub before: Arc<Sample>,
    pub last: Arc<Sample>,
}

/// The last samples of a node, the oldest first.
pub(super) struct Book {
    turn: Semaphore,
    samples: Mutex<VecDeque<(Mono, Arc<Sample>)>>,
}

impl Default for Book {
    fn default() -> Book {
        Book { turn: Semaphore::new(1), samples: Mutex::default() }
    }
}

impl Book {
    /// Waits until nobody else asks the node.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        self.turn.acquire().await.expect("this semaphore is never closed")
    }

    /// What tells of now, if there is enough.
    pub(super) fn pair(&self, now: Mono) -> Option<Pair> {
        let samples = self.samples.lock().expect("no holder of this lock panics");
        let (taken, last) = samples.back().filter(|(taken, _)| now - *taken <= FRESH)?;
        let apart = |(earlier, _): &&(Mono, Arc<Sample>)| *taken - *earlier;
        let good = samples.iter().rev().find(|sample| apart(sample) >= APART_GOOD);
        let (_, before) = good.or_else(|| samples.iter().find(|sample| apart(sample) >= APART_MIN))?;
        Some(Pair { before: before.clone(), last: last.clone() })
    }

    /// How long to wait before another sample says anything.
    pub(super) fn early(&self, now: Mono) -> Option<Duration> {
        let samples = self.samples.lock().expect("no holder of this lock panics");
        let since = now - samples.front().filter(|(taken, _)| now - *taken <= AGE_MAX)?.0;
        APART_MIN.checked_sub(since).filter(|left| !left.is_zero())
    }

    /// Takes a sample that was just taken.
    pub(super) fn keep(&self, now: Mono, sample: Sample) {
        let mut samples = self.samples.lock().expect("no holder of this lock panics");
        samples.retain(|(taken, _)| now - *taken <= AGE_MAX);
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back((now, Arc::new(sample)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ages in seconds of the two samples that are chosen of those taken at these moments, and the wait for another.
    fn check(taken: &[u64], now: u64, expected: Option<(u64, u64)>, wait: Option<u64>) {
        let book = Book::default();
        let mono = |milliseconds| Mono(Duration::from_millis(milliseconds));
        for at in taken {
            let point = super::super::sample::Point { at: *at as i64, ..Default::default() };
            book.keep(mono(*at), Sample { node: Some(point), ..Sample::default() });
        }
        let at = |sample: &Sample| sample.node.expect("it was given one").at as u64;
        let pair = book.pair(mono(now)).map(|pair| (at(&pair.before), at(&pair.last)));
        assert_eq!(pair, expected, "{taken:?} at {now}");
        assert_eq!(book.early(mono(now)), wait.map(Duration::from_millis), "{taken:?} at {now}");
    }

    #[test]
    fn two_samples_tell_when_they_are_new_and_apart() {
        check(&[], 5, None, None);
        check(&[1_000], 1_200, None, Some(800));
        check(&[1_000, 1_500], 1_600, None, Some(400));
        check(&[1_000, 2_000], 2_000, Some((1_000, 2_000)), None);
        check(&[1_000, 2_000], 5_001, None, None);
        check(&[1_000, 2_000, 6_000, 13_000, 14_000], 14_000, Some((2_000, 14_000)), None);
        // What is too old is forgotten.
        check(&[1_000, 70_000], 70_000, None, Some(1_000));
    }
}
