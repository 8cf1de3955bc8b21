//! What tests of stores do again and again.

use bytes::Bytes;
use store::{Entry, Op, RangeRequest, Store, TxnOutcome};

/// The revision of a transaction that has to succeed.
pub(crate) async fn commit(store: &dyn Store, ops: Vec<Op>) -> u64 {
    match store.txn(vec![], ops).await.unwrap() {
        TxnOutcome::Committed { revision } => revision,
        TxnOutcome::Failed { .. } => panic!("a transaction without comparisons failed"),
    }
}

/// Keys and values of everything below `prefix`, now or at `revision`.
pub(crate) async fn contents(store: &dyn Store, prefix: &str, revision: Option<u64>) -> Vec<(String, String)> {
    let request = RangeRequest { revision, ..RangeRequest::prefix(prefix) };
    store.range(request).await.unwrap().entries.iter().map(|entry| pair(entry)).collect()
}

/// An entry's key and value as text.
pub(crate) fn pair(entry: &Entry) -> (String, String) {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&entry.key), text(&entry.value))
}
