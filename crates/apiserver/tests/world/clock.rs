//! A node whose clock moves when a test says so.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use stdx::context::{self, Context};
use stdx::{BoxFuture, Mono};
use tokio::sync::watch;

#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    now: watch::Sender<Duration>,
    next_random: Mutex<u64>,
}

impl Clock {
    pub fn new() -> Clock {
        Clock(Arc::new(Inner { now: watch::Sender::new(Duration::ZERO), next_random: Mutex::new(1) }))
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        self.0.now.send_modify(|now| *now += by);
    }

    /// Runs a future under this clock.
    pub async fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| context::with(Arc::new(self.clone()), || future.as_mut().poll(cx))).await
    }
}

struct Under(BoxFuture<'static, ()>, Clock);

impl Future for Under {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<()> {
        let clock = self.1.clone();
        context::with(Arc::new(clock), || self.0.as_mut().poll(cx))
    }
}

impl Context for Clock {
    fn wall(&self) -> jiff::Timestamp {
        let start = jiff::Timestamp::from_second(1_800_000_000).expect("a time");
        start + *self.0.now.borrow()
    }

    fn mono(&self) -> Mono {
        Mono(*self.0.now.borrow())
    }

    #[allow(clippy::disallowed_methods, reason = "this is the test's own executor")]
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        drop(tokio::spawn(Under(future, self.clone())));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut now = self.0.now.subscribe();
        let end = *now.borrow() + duration;
        Box::pin(async move {
            now.wait_for(|now| *now >= end).await.expect("the clock lives as long as its sleepers");
        })
    }

    fn random(&self, bytes: &mut [u8]) {
        let mut next = self.0.next_random.lock().expect("no holder of this lock panics");
        for byte in bytes {
            *next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (*next >> 56) as u8;
        }
    }
}
