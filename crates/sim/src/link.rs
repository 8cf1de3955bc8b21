//! The way to the API server, on which requests fail or come late, answers get lost, and watches lag and end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver::{ApiServer, User};
use client::{ClientError, Object, ObjectList, Request, Response, Transport, TransportError, WatchEvent, WatchStream};
use futures_util::StreamExt;
use stdx::sim::NodeContext;
use stdx::{BoxFuture, Cancel, Mono, mono};
use tokio::sync::{mpsc, watch};

use crate::court::Court;

/// A request takes up to so long in each direction.
const DELAY_MAX: Duration = Duration::from_millis(60);
/// Most events of a watch are so late at most; one in ten so much later.
const LAG_MAX: Duration = Duration::from_millis(800);
const LONG_LAG_MAX: Duration = Duration::from_secs(6);
/// One watch in three lives up to so long.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// One lost watch in two is silent up to so long before it ends.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// Events on their way.
const ON_THE_WAY_MAX: usize = 65_536;
/// How late a request arrives at most whose sender has given it up.
const LATE_MAX: Duration = Duration::from_millis(400);
/// A request on a cut cable is given up after this.
const CUT_PATIENCE: Duration = Duration::from_secs(10);

/// Where the API server is found now.
#[derive(Clone, Default)]
pub struct Address(Arc<Mutex<Option<Serving>>>);

/// A running API server and the machine it runs on.
#[derive(Clone)]
pub struct Serving {
    pub server: Arc<ApiServer>,
    pub node: NodeContext,
}

impl Address {
    /// The server moves in, or out.
    pub fn set(&self, serving: Option<Serving>) {
        *self.0.lock().expect("no holder of this lock panics") = serving;
    }

    /// The server, if there is one.
    pub fn get(&self) -> Option<Serving> {
        self.0.lock().expect("no holder of this lock panics").clone()
    }
}

/// Whether anything goes wrong at all; clones share it.
#[derive(Clone, Default)]
pub struct Weather(Arc<AtomicBool>);

impl Weather {
    /// From now on things go wrong, or not.
    pub fn set(&self, bad: bool) {
        self.0.store(bad, Ordering::Relaxed);
    }

    fn is_bad(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The cable of a machine: while it is cut, nothing passes. Clones are the same cable.
#[derive(Clone)]
pub struct Cable(Arc<watch::Sender<bool>>);

impl Default for Cable {
    fn default() -> Self {
        Cable(Arc::new(watch::Sender::new(true)))
    }
}

impl Cable {
    /// Cuts the cable, and mends it after a while.
    pub async fn cut(&self, duration: Duration) {
        self.0.send_replace(false);
        stdx::sleep(duration).await;
        self.0.send_replace(true);
    }

    fn is_whole(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the cable is whole; whether it was cut.
    async fn mended(&self) -> bool {
        if self.is_whole() {
            return false;
        }
        let mut state = self.0.subscribe();
        state.wait_for(|whole| *whole).await.expect("the sender lives in self");
        true
    }
}

/// Kills a process once it has sent so many more writes. Clones are the same fuse.
#[derive(Clone, Default)]
pub struct Fuse(Arc<Mutex<Option<Armed>>>);

struct Armed {
    writes_left: u64,
    process: NodeContext,
    blown: Cancel,
}

impl Fuse {
    /// Lets `process` die with its write of this number, counted from 1; the flag is raised when it does.
    pub fn arm(&self, writes: u64, process: &NodeContext) -> Cancel {
        let blown = Cancel::default();
        let armed = Armed { writes_left: writes, process: process.clone(), blown: blown.clone() };
        *self.0.lock().expect("no holder of this lock panics") = Some(armed);
        blown
    }

    /// Nothing is to die any more.
    pub fn disarm(&self) {
        *self.0.lock().expect("no holder of this lock panics") = None;
    }

    /// A write was sent. Whoever sent it lives on up to its next `.await`.
    fn burn(&self) {
        let mut armed = self.0.lock().expect("no holder of this lock panics");
        let Some(burning) = armed.as_mut() else { return };
        burning.writes_left -= 1;
        if burning.writes_left > 0 {
            return;
        }
        let blown = armed.take();
        drop(armed);
        if let Some(Armed { process, blown, .. }) = blown {
            process.kill();
            blown.cancel();
        }
    }
}

/// A user's way to the API server.
pub struct Link {
    address: Address,
    user: User,
    weather: Weather,
    court: Court,
    cable: Cable,
    fuse: Fuse,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// It never arrives, and its sender knows.
    Refused,
    /// It never arrives, and its sender does not know.
    Lost,
    /// It arrives, and its answer does not.
    AnswerLost,
    /// It arrives only after its sender has given it up.
    Late,
}

fn below(limit: u64) -> u64 {
    stdx::random_u64() % limit
}

/// Up to `limit`.
fn some(limit: Duration) -> Duration {
    Duration::from_micros(below(u64::try_from(limit.as_micros()).unwrap_or(u64::MAX).max(1)))
}

impl Link {
    /// The way of `user`, in that weather.
    pub fn new(address: &Address, user: User, weather: &Weather, court: &Court) -> Link {
        Link {
            address: address.clone(),
            user,
            weather: weather.clone(),
            court: court.clone(),
            cable: Cable::default(),
            fuse: Fuse::default(),
        }
    }

    /// The same way over a machine's cable.
    #[must_use]
    pub fn over(self, cable: &Cable) -> Link {
        Link { cable: cable.clone(), ..self }
    }

    /// The same way for a process that dies when the fuse blows.
    #[must_use]
    pub fn fused(self, fuse: &Fuse) -> Link {
        Link { fuse: fuse.clone(), ..self }
    }

    fn fate(&self, write: bool) -> Fate {
        match below(100) {
            _ if !self.weather.is_bad() => Fate::Answered,
            0..2 => Fate::Refused,
            2..4 if write => Fate::Lost,
            4..7 if write => Fate::AnswerLost,
            7..9 if write => Fate::Late,
            _ => Fate::Answered,
        }
    }

    /// Has `run` done on the server's machine, where it goes on whatever becomes of the one who asked.
    async fn carry<T: Send + 'static>(
        &self,
        request: Request,
        run: impl FnOnce(Arc<dyn Transport>, Request) -> BoxFuture<'static, T> + Send,
    ) -> Result<T, TransportError> {
        let write = request.is_write();
        let fate = self.fate(write);
        tracing::trace!(user = self.user.name, method = %request.method(), path = request.target.path(), ?fate, "sent");
        let lost = || TransportError::Lost("connection reset".into());
        stdx::sleep(some(DELAY_MAX)).await;
        if !self.cable.is_whole() {
            stdx::sleep(CUT_PATIENCE).await;
            return Err(lost());
        }
        let serving = self.address.get().filter(|_| fate != Fate::Refused);
        let Some(serving) = serving else { return Err(TransportError::Unreached("connection refused".into())) };
        if fate == Fate::Lost {
            stdx::sleep(some(DELAY_MAX)).await;
            return Err(lost());
        }
        let late = if fate == Fate::Late { some(LATE_MAX) } else { Duration::ZERO };
        let request = run(serving.server.in_process(self.user.clone()), request);
        let answer = serving.node.run(async move {
            stdx::sleep(late).await;
            request.await
        });
        if write {
            self.fuse.burn();
        }
        if fate == Fate::Late {
            stdx::sleep(some(DELAY_MAX)).await;
            return Err(lost());
        }
        let answer = answer.await;
        stdx::sleep(some(DELAY_MAX)).await;
        if !self.cable.is_whole() {
            stdx::sleep(CUT_PATIENCE).await;
            return Err(lost());
        }
        match answer {
            Ok(answer) if fate == Fate::Answered => Ok(answer),
            _ => Err(lost()),
        }
    }
}

fn client_error(error: TransportError, write: bool) -> ClientError {
    match error {
        error @ TransportError::Unreached(_) => ClientError::Transport(error),
        error if write => ClientError::Unknown(error),
        error => ClientError::Transport(error),
    }
}

impl Transport for Link {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(async move {
            let write = request.is_write();
            let call = |transport: Arc<dyn Transport>, request| -> BoxFuture<'static, _> {
                Box::pin(async move { transport.call(request).await })
            };
            let response = self.carry(request, call).await??;
            if write && let Ok(object) = client::decode::object(&response) {
                self.court.acknowledged(object.revision());
            }
            Ok(response)
        })
    }

    fn list(&self, request: Request) -> BoxFuture<'_, Result<ObjectList, ClientError>> {
        Box::pin(async move {
            let list = |transport: Arc<dyn Transport>, request| -> BoxFuture<'static, _> {
                Box::pin(async move { transport.list(request).await })
            };
            self.carry(request, list).await.map_err(|error| client_error(error, false))?
        })
    }

    fn object(&self, request: Request) -> BoxFuture<'_, Result<Arc<Object>, ClientError>> {
        Box::pin(async move {
            let write = request.is_write();
            let object = |transport: Arc<dyn Transport>, request| -> BoxFuture<'static, _> {
                Box::pin(async move { transport.object(request).await })
            };
            let object = self.carry(request, object).await.map_err(|error| client_error(error, write))??;
            if write {
                self.court.acknowledged(object.revision());
            }
            Ok(object)
        })
    }

    fn watch(&self, request: Request) -> BoxFuture<'_, Result<WatchStream, ClientError>> {
        Box::pin(async move {
            let node = self.address.get().map(|serving| serving.node);
            let watch = |transport: Arc<dyn Transport>, request| -> BoxFuture<'static, _> {
                Box::pin(async move { transport.watch(request).await })
            };
            let stream = self.carry(request, watch).await.map_err(|error| client_error(error, false))??;
            let gone = || ClientError::Transport(TransportError::Lost("connection reset".into()));
            Ok(carried(&node.ok_or_else(gone)?, stream, self.weather.clone(), self.cable.clone()))
        })
    }
}

type Event = Result<WatchEvent, ClientError>;

/// The stream as its receiver sees it: in bad weather each event comes some time later than it was sent, in order, until
/// the watch is lost. It is read on the server's machine, by whose clock it lives.
fn carried(node: &NodeContext, mut stream: WatchStream, weather: Weather, cable: Cable) -> WatchStream {
    let (stamped, mut due) = mpsc::channel::<(Mono, Event)>(ON_THE_WAY_MAX);
    let (delivered, events) = mpsc::channel::<Event>(ON_THE_WAY_MAX);
    let lagging = weather.clone();
    drop(node.run(async move {
        let mut last = mono();
        while let Some(event) = stream.next().await {
            let lag = match below(10) {
                _ if !lagging.is_bad() => Duration::ZERO,
                0 => some(LONG_LAG_MAX),
                _ => some(LAG_MAX),
            };
            last = last.max(mono() + lag);
            if stamped.send((last, event)).await.is_err() {
                return;
            }
        }
    }));
    drop(node.run(async move {
        let short = below(3) == 0;
        let end = mono() + some(LIFE_MAX);
        while let Some((at, event)) = due.recv().await {
            if short && at > end && weather.is_bad() {
                break;
            }
            stdx::sleep_until(at).await;
            // Some connections outlive a cut, and then what was sent meanwhile comes at once.
            if cable.mended().await && below(2) == 0 {
                break;
            }
            if delivered.send(event).await.is_err() {
                return;
            }
        }
        // Some watches end, and some only say no more for a while.
        if weather.is_bad() && below(2) == 0 {
            stdx::sleep(some(SILENCE_MAX)).await;
        }
    }));
    Box::pin(futures_util::stream::unfold(events, |mut events| async move { Some((events.recv().await?, events)) }))
}
