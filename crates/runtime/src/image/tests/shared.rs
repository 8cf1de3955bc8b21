//! One folder, several stores: names, holders, collection, crashes.

use super::*;

fn load(store: &ImageStore, name: &str, content: &str) -> Image {
    store.load_reader(packed(name, content).as_slice(), &LoadOptions::default()).unwrap().remove(0)
}

#[test]
fn sees_what_another_process_changed() {
    let folder = Folder::new("shared");
    let (one, other) = (store(&folder), store(&folder));
    assert!(other.list().unwrap().is_empty());
    let image = load(&one, "a:1", "x");
    assert_eq!(other.image("a:1").unwrap().as_ref(), Some(&image));
    assert_eq!(other.remove("a:1").unwrap(), Removed::Deleted(image.id));
    assert_eq!(one.image("a:1").unwrap(), None);
    assert!(matches!(one.remove("a:1"), Err(ImageError::NotFound { .. })));
}

#[test]
fn loads_from_many_threads_at_once() {
    let folder = Folder::new("threads");
    let stores: Vec<ImageStore> = (0..3).map(|_| store(&folder)).collect();
    std::thread::scope(|scope| {
        for (number, store) in stores.iter().enumerate() {
            for round in 0..5 {
                scope.spawn(move || {
                    load(store, "same:1", "same");
                    load(store, &format!("own:{number}-{round}"), &format!("{number} {round}"));
                });
            }
        }
    });
    let images = stores[0].list().unwrap();
    assert_eq!(images.len(), 16);
    for image in images {
        assert!(app_of(&image).len() >= 3);
    }
    stores[1].collect().unwrap();
    assert_eq!(leftovers(&stores[2]), [""; 0]);
}

#[test]
fn keeps_an_image_that_somebody_holds() {
    let folder = Folder::new("hold");
    let (one, other) = (store(&folder), store(&folder));
    let image = load(&one, "a:1", "x");
    one.hold("a:1", "container-1").unwrap();
    other.hold(&image.id, "container-2").unwrap();
    let refused = one.remove_image("a:1").unwrap_err().to_string();
    assert_eq!(refused, format!("image {} is in use by container-1, container-2", image.id));
    other.release(&image.id, "container-1").unwrap();
    other.release(&image.id, "container-1").unwrap();
    assert_eq!(store(&folder).holders(&image.id).unwrap(), ["container-2"]);
    one.release(&image.id, "container-2").unwrap();
    assert_eq!(one.remove_image("a:1").unwrap(), Removed::Deleted(image.id.clone()));
    assert!(matches!(one.hold("a:1", "late"), Err(ImageError::NotFound { .. })));
    assert!(one.hold(&image.id, "../escape").is_err());
    assert!(one.release("sha256:../x", "y").is_err());
}

#[test]
fn removes_a_name_before_the_image() {
    let folder = Folder::new("names");
    let store = store(&folder);
    let image = load(&store, "a:1", "x");
    assert_eq!(load(&store, "a:2", "x").repo_tags, ["docker.io/library/a:1", "docker.io/library/a:2"]);
    store.hold("a:1", "c").unwrap();
    assert_eq!(store.remove("a:1").unwrap(), Removed::Untagged("docker.io/library/a:1".into()));
    assert!(matches!(store.remove("a:2"), Err(ImageError::InUse { .. })));
    store.release(&image.id, "c").unwrap();
    assert_eq!(store.remove("a:2").unwrap(), Removed::Deleted(image.id.clone()));
    let moved = load(&store, "a:1", "x");
    let newer = load(&store, "a:1", "y");
    assert_eq!(store.image("a:1").unwrap().unwrap().id, newer.id);
    assert_eq!(store.image(&moved.id).unwrap().unwrap().repo_tags, [""; 0]);
}

#[test]
fn collects_what_nobody_refers_to_unless_somebody_adds() {
    let folder = Folder::new("collect");
    let store = store(&folder);
    let (kept, gone) = (load(&store, "kept", "k"), load(&store, "gone", "g"));
    let adding = store.adding().unwrap();
    store.remove("gone").unwrap();
    assert!(gone.layers[0].exists(), "somebody might be about to need it");
    assert!(!store.collect().unwrap());
    drop(adding);
    assert!(store.collect().unwrap());
    assert!(!gone.layers[0].exists() && kept.layers[0].exists());
    assert_eq!(fs::read_dir(store.root().join("blobs/sha256")).unwrap().count(), 2, "manifest and configuration");
    let (bytes, inodes) = store.usage().unwrap();
    assert!(bytes > 0 && inodes > 8);
}

#[test]
fn starts_from_whatever_a_crash_left() {
    let folder = Folder::new("crash");
    let first = store(&folder);
    let image = load(&first, "a", "x");
    let root = first.root().to_owned();
    fs::create_dir_all(root.join("unpack/layer-0123/half")).unwrap();
    fs::create_dir_all(root.join("unpack/gone-4567/half")).unwrap();
    fs::create_dir(root.join("layers").join(Digest::of(b"no name leads here").hex())).unwrap();
    fs::write(root.join("ingest/new-0123"), "half").unwrap();
    fs::write(root.join("ingest").join(Digest::of(b"half").hex()), "kept for a day").unwrap();
    fs::write(root.join("blobs/sha256").join(Digest::of(b"lost").hex()), "lost").unwrap();
    fs::write(root.join("index.json.new"), "{\"version\":1,\"ima").unwrap();
    let second = store(&folder);
    assert_eq!(second.list().unwrap(), [image]);
    assert!(second.collect().unwrap());
    assert_eq!(leftovers(&second), [Digest::of(b"half").hex()]);
    assert_eq!(fs::read_dir(root.join("layers")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(root.join("blobs/sha256")).unwrap().count(), 2);
    load(&second, "b", "y");
    fs::write(root.join("index.json"), "{\"version\":9,\"images\":{}}").unwrap();
    let error = second.list().unwrap_err().to_string();
    assert!(error.contains("has version 9, this program reads 1"), "{error}");
}
