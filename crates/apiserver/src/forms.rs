//! What was encoded so far: of an event, so that a thousand watchers cost one encoding, and of objects, so that many reads do.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use api::projection::{Meta, Projection, ReadError, Reader, Source};
use bytes::Bytes;
use client::Object;

use crate::cache::Told;
use crate::negotiate::{Encoding, Shape};

/// Which form of an event: the bytes of its frame depend on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormKey {
    pub told: Told,
    pub encoding: Encoding,
    pub shape: Shape,
    /// Whether the served version is the stored one.
    pub converted: bool,
}

/// The forms of one event; few, so a list.
#[derive(Default)]
pub struct Forms(Mutex<Vec<(FormKey, Bytes)>>);

impl Forms {
    /// The bytes of a form, made by the first who asks.
    pub fn get_or_make<E>(&self, key: FormKey, make: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Bytes, E> {
        let mut forms = self.0.lock().expect("no holder of this lock panics");
        if let Some((_, bytes)) = forms.iter().find(|(known, _)| *known == key) {
            return Ok(bytes.clone());
        }
        let bytes = Bytes::from(make()?);
        forms.push((key, bytes.clone()));
        Ok(bytes)
    }
}

/// The bytes of all JSON forms that are kept.
const JSON_BYTES_MAX: usize = 64 << 20;
/// A form that was asked for within this time is not given up for another: a list that is longer than all the room would
/// otherwise drive out each form just before it is asked for again.
const KEPT_MIN: Duration = Duration::from_secs(60);
/// Forms of objects that are gone are looked for when so many were added.
const SWEEP_MIN: usize = 1024;

/// The JSON of objects in their stored version, without type, with their revision: an item of a list, and of a single object all
/// but its first two members. Made at the first demand and kept with the object, as long as there is room.
pub(crate) struct JsonForms {
    bytes_max: usize,
    bytes: Arc<AtomicUsize>,
    queue: Mutex<Queue>,
}

/// The forms in about the order in which they were made; some of them are of objects that have gone.
#[derive(Default)]
struct Queue {
    forms: VecDeque<Weak<Place>>,
    sweep_at: usize,
}

/// Where an object keeps its form; it goes with the object.
#[derive(Default)]
struct Slot(Arc<Place>);

#[derive(Default)]
struct Place {
    form: Mutex<Option<Form>>,
    /// In milliseconds of the monotonic clock.
    asked: AtomicU64,
}

struct Form {
    json: Bytes,
    /// Of all forms together.
    bytes: Arc<AtomicUsize>,
}

impl Drop for Form {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.json.len(), Ordering::Relaxed);
    }
}

impl Projection for Slot {
    fn set_meta(&mut self, _: Arc<Meta>) {}

    fn read(&mut self, _: Reader<'_>) -> Result<(), ReadError> {
        Ok(())
    }

    /// A place is empty at first, whatever the object.
    fn project(_: &Source<'_>) -> Result<Slot, ReadError> {
        Ok(Slot::default())
    }
}

impl Place {
    fn form(&self) -> std::sync::MutexGuard<'_, Option<Form>> {
        self.form.lock().expect("no holder of this lock panics")
    }
}

impl Default for JsonForms {
    fn default() -> JsonForms {
        JsonForms::new(JSON_BYTES_MAX)
    }
}

impl JsonForms {
    fn new(bytes_max: usize) -> JsonForms {
        JsonForms { bytes_max, bytes: Arc::default(), queue: Mutex::default() }
    }

    /// The object's form, made now if it is not there.
    pub(crate) fn get_or_make<E>(
        &self,
        object: &Object,
        make: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Bytes, E> {
        let place = &object.project::<Slot>().0;
        let now = stdx::mono().0.as_millis() as u64;
        place.asked.store(now, Ordering::Relaxed);
        if let Some(form) = &*place.form() {
            return Ok(form.json.clone());
        }
        let mut made = make()?;
        made.shrink_to_fit();
        let json = Bytes::from(made);
        self.keep(place, &json, now);
        Ok(json)
    }

    fn keep(&self, place: &Arc<Place>, json: &Bytes, now: u64) {
        let mut queue = self.queue.lock().expect("no holder of this lock panics");
        while self.bytes.load(Ordering::Relaxed) + json.len() > self.bytes_max {
            // The bytes of an object that is gone were given back with it.
            let Some(oldest) = queue.forms.pop_front() else { return };
            let Some(known) = oldest.upgrade() else { continue };
            if known.asked.load(Ordering::Relaxed) + KEPT_MIN.as_millis() as u64 > now {
                queue.forms.push_back(oldest);
                return;
            }
            *known.form() = None;
        }
        let mut form = place.form();
        if form.is_some() {
            // Another reader was as quick.
            return;
        }
        self.bytes.fetch_add(json.len(), Ordering::Relaxed);
        *form = Some(Form { json: json.clone(), bytes: self.bytes.clone() });
        drop(form);
        if queue.forms.len() >= queue.sweep_at {
            queue.forms.retain(|place| place.strong_count() > 0);
            queue.sweep_at = SWEEP_MIN.max(queue.forms.len() * 2);
        }
        queue.forms.push_back(Arc::downgrade(place));
    }

    /// The bytes of all forms that are kept.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use client::{Gvk, Key};

    use super::*;

    fn object(name: &str) -> Object {
        let kind = Arc::new(Gvk::new("", "v1", "ConfigMap"));
        Object::new(kind, Key::new("default", name), "", 1, Bytes::from_static(b"{}"))
    }

    /// Whether the form had to be made.
    fn is_made(forms: &JsonForms, object: &Object) -> bool {
        let mut made = false;
        let Ok(form) = forms.get_or_make::<Infallible>(object, || {
            made = true;
            Ok(vec![b'x'; 40])
        });
        assert_eq!(form.len(), 40);
        made
    }

    #[test]
    fn a_form_is_made_once_and_goes_with_its_object() {
        let forms = JsonForms::new(100);
        let (one, two) = (object("one"), object("two"));
        let made = [&one, &one, &two, &two, &one].map(|object| is_made(&forms, object));
        assert_eq!(made, [true, false, true, false, false]);
        assert_eq!(forms.bytes(), 80);
        drop(one);
        assert_eq!(forms.bytes(), 40);
        let three = object("three");
        assert!(is_made(&forms, &three) && !is_made(&forms, &three));
    }

    #[test]
    fn forms_in_use_are_not_given_up_for_a_list_that_is_longer_than_the_room() {
        let forms = JsonForms::new(100);
        let objects = ["a", "b", "c", "d"].map(object);
        let list = || objects.each_ref().map(|object| is_made(&forms, object));
        assert_eq!(list(), [true; 4]);
        assert_eq!(list(), [false, false, true, true]);
        assert_eq!(forms.bytes(), 80);
    }

    #[test]
    fn a_form_that_nobody_asks_for_makes_room() {
        let forms = JsonForms::new(100);
        let objects = ["a", "b", "c"].map(object);
        assert!(is_made(&forms, &objects[0]) && is_made(&forms, &objects[1]));
        objects[0].project::<Slot>().0.asked.store(0, Ordering::Relaxed);
        let later = KEPT_MIN.as_millis() as u64 + 1;
        let place = &objects[2].project::<Slot>().0;
        forms.keep(place, &Bytes::from(vec![b'x'; 40]), later);
        assert_eq!(forms.bytes(), 80);
        assert!(!is_made(&forms, &objects[2]));
    }
}
