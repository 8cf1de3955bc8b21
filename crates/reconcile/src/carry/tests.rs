//! What carrying out makes of answers and of their absence.

use api::status::Status;
use api::value::Value;
use client::{ObjectList, Request, Response, Transport, TransportError, WatchStream};
use stdx::BoxFuture;
use stdx::TaskTree;
use stdx::sim::Simulation;

use super::*;
use crate::plan::kinds::PODS;

/// Every write ends so; a list shows nothing, at revision 7.
#[derive(Clone)]
struct Answers(ClientError);

impl Transport for Answers {
    fn call(&self, _: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(std::future::ready(Err(TransportError::Unreached("only objects and lists".into()))))
    }

    fn list(&self, _: Request) -> BoxFuture<'_, Result<ObjectList, ClientError>> {
        Box::pin(std::future::ready(Ok(ObjectList { revision: 7, ..ObjectList::default() })))
    }

    fn watch(&self, _: Request) -> BoxFuture<'_, Result<WatchStream, ClientError>> {
        Box::pin(std::future::pending())
    }

    fn object(&self, _: Request) -> BoxFuture<'_, Result<Arc<Object>, ClientError>> {
        Box::pin(std::future::ready(Err(self.0.clone())))
    }
}

fn run<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> (T, Duration) {
    let simulation = Simulation::new(1);
    let output = simulation.run_until(future).expect("it ends");
    (output, simulation.now())
}

/// What comes of creating a pod when that ends so: whether it is decided anew, is looked for, and is told as a failure.
fn check(error: ClientError, expected: (bool, bool, bool)) {
    let client = Client::new(Arc::new(Answers(error.clone())), "test");
    let (carried, _) = run(async move {
        let recorder = Recorder::start(client.clone(), "test", "", &TaskTree::default());
        let create =
            Change::Create { resource: PODS, namespace: "default".into(), object: Value::Object(Map::default()) };
        carry_out(&client, &recorder, Plan::nothing().then([create.into()])).await
    });
    let failed = carried.outcomes.failed(Verb::Create, PODS).is_some();
    assert_eq!((carried.conflict, carried.unanswered.contains(&PODS), failed), expected, "{error:?}");
}

fn status(code: u16, reason: &str) -> ClientError {
    Status { code, reason: reason.into(), ..Status::default() }.into()
}

#[test]
fn what_may_have_happened_is_looked_for_before_the_next_decision() {
    check(ClientError::Unknown(TransportError::Lost("reset".into())), (true, true, false));
    // The server itself does not know what became of it.
    check(status(504, "Timeout"), (true, true, false));
}

#[test]
fn what_did_not_happen_is_a_failure_or_decided_anew() {
    check(status(403, "Forbidden"), (false, false, true));
    check(status(500, "InternalError"), (false, false, true));
    check(ClientError::Transport(TransportError::Unreached("refused".into())), (false, false, true));
    check(status(409, "AlreadyExists"), (true, false, false));
}

#[test]
fn a_lost_write_has_time_to_arrive_before_it_is_looked_for() {
    let client = Client::new(Arc::new(Answers(status(504, "Timeout"))), "test");
    let (revision, passed) = run(async move { revision_after(&client, PODS).await });
    assert_eq!((revision, passed), (7, ON_THE_WAY));
}
