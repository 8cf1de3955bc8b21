//! Archives of every kind, made by us and by other tools.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::image::testing::Tar;

#[test]
fn loads_what_it_packs() {
    let folder = Folder::new("load");
    let store = store(&folder);
    let archive = packed("my-registry/api:v1.2.3", "one");
    assert_eq!(archive, packed("my-registry/api:v1.2.3", "one"), "packing is deterministic");
    let images = store.load_reader(archive.as_slice(), &LoadOptions::default()).unwrap();
    assert_eq!(images.len(), 1);
    let image = &images[0];
    assert_eq!(image.repo_tags, ["docker.io/my-registry/api:v1.2.3"]);
    assert!(image.repo_digests.is_empty());
    assert_eq!(
        (image.config.user.as_str(), image.config.exposed_ports.as_slice()),
        ("1000", &["3000/tcp".to_owned()][..])
    );
    assert_eq!(app_of(image), "one");
    let stat = fs::metadata(image.layers[0].join("tmp")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o1777, 0));
    assert_eq!(store.image("my-registry/api:v1.2.3").unwrap().as_ref(), Some(image));
    assert_eq!(store.image("my-registry/api").unwrap(), None);
    assert_eq!(store.list().unwrap(), images);
    assert_eq!(leftovers(&store), [""; 0]);
    // Once more changes nothing.
    assert_eq!(store.load_reader(archive.as_slice(), &LoadOptions::default()).unwrap(), images);
}

#[test]
fn packs_nothing_that_cannot_be() {
    let with = |entries: Vec<PackEntry>| pack(&PackSpec { name: "x".into(), entries, ..PackSpec::default() });
    for (entries, expected) in [
        (vec![PackEntry::file("../x", 0, "")], "is no path"),
        (vec![PackEntry::file("", 0, "")], "is no path"),
        (vec![PackEntry::file("a", 0, ""), PackEntry::file("/a", 0, "")], "is given twice"),
        (vec![PackEntry::file("a", 0, ""), PackEntry::file("a/b", 0, "")], "both a folder and not"),
    ] {
        let error = with(entries).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// What `docker save` wrote before it wrote OCI layouts: layers in folders, repeated ones as links.
fn docker_archive(tags: &[&str]) -> Tar {
    let (first, second) =
        (Tar::default().file("a", 0o644, b"1").bytes(), Tar::default().file("b", 0o644, b"2").bytes());
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/a"], "Env": null},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&first), Digest::of(&second), Digest::of(&first)]},
    });
    let manifest = serde_json::json!([{
        "Config": "image.json", "RepoTags": tags, "Layers": ["x/layer.tar", "y/layer.tar", "z/layer.tar"],
    }]);
    Tar::default()
        .file("x/layer.tar", 0o644, &first)
        .file("y/layer.tar", 0o644, &second)
        .symlink("z/layer.tar", "../x/layer.tar")
        .file("image.json", 0o644, config.to_string().as_bytes())
        .file("manifest.json", 0o644, manifest.to_string().as_bytes())
}

#[test]
fn loads_docker_archives_compressed_or_not() {
    let folder = Folder::new("docker");
    let store = store(&folder);
    let archive = docker_archive(&["a/b:1", "localhost:5000/c:2"]).bytes();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&archive).unwrap();
    let path = folder.path().join("archive.tgz");
    fs::write(&path, gzip.finish().unwrap()).unwrap();
    let images = store.load(&path, &LoadOptions::default()).unwrap();
    assert_eq!(images[0].repo_tags, ["docker.io/a/b:1", "localhost:5000/c:2"]);
    assert_eq!(images[0].config.cmd, ["/a"]);
    assert_eq!(images[0].layers.len(), 3);
    assert_ne!(images[0].layers[0], images[0].layers[2], "the same layer at another height is another chain");
    assert_eq!(store.load_reader(archive.as_slice(), &LoadOptions::default()).unwrap(), images);
}

#[test]
fn names_bare_tags_by_the_repository_it_is_told() {
    let folder = Folder::new("tags");
    let store = store(&folder);
    let (blobs, manifest) = blobs_of(&packed("x", "bare"));
    let named = |tag: &str| {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(&manifest),
            "size": manifest.len(), "annotations": {"org.opencontainers.image.ref.name": tag},
        }]});
        let mut tar = Tar::default().file("index.json", 0o644, index.to_string().as_bytes());
        for content in blobs.values().chain([&manifest]) {
            tar = tar.file(&format!("blobs/sha256/{}", Digest::of(content).hex()), 0o644, content);
        }
        tar.bytes()
    };
    let told = LoadOptions { repository: Some("r.example/app".into()) };
    for (tag, options, expected) in [
        ("v1", &LoadOptions::default(), &[][..]),
        ("v1", &told, &["r.example/app:v1"]),
        ("other.example/x:2", &told, &["other.example/x:2", "r.example/app:v1"]),
    ] {
        let images = store.load_reader(named(tag).as_slice(), options).unwrap();
        assert_eq!(images[0].repo_tags, expected);
    }
    assert!(store.load_reader(named("not a tag").as_slice(), &told).is_err());
}

#[test]
fn leaves_nothing_behind_of_a_broken_archive() {
    let folder = Folder::new("broken");
    let store = store(&folder);
    let good = packed("x", "good");
    let (blobs, manifest) = blobs_of(&good);
    let forged = good.windows(4).position(|window| window == b"good").unwrap();
    let mut flipped = good.clone();
    flipped[forged] = b'f';
    let docker = docker_archive(&["a:1"]);
    for (archive, expected) in [
        (flipped, "digest is"),
        (good[..good.len() / 2 + 100].to_vec(), "read archive"),
        (b"neither tar nor anything".to_vec(), "read archive"),
        (Tar::default().file("readme", 0o644, b"").bytes(), "no image for this machine found"),
        (docker.clone().file("x/layer.tar", 0o644, b"not the layer").bytes(), "unpack layer"),
        (docker.clone().file("x/layer.tar", 0o644, &Tar::default().bytes()).bytes(), "uncompressed layer"),
        (docker.clone().symlink("y/layer.tar", "layer.tar").bytes(), "archive lacks y/layer.tar"),
        (docker.file("image.json", 0o644, b"{\"rootfs\":{}}").bytes(), "mismatched image rootfs"),
        (Tar::default().file("manifest.json", 0o644, b"[{\"Config\":\"../../etc/passwd\"}]").bytes(), "archive lacks"),
        (Tar::default().file("index.json", 0o644, b"{\"manifests\":[{}]}").bytes(), "read index.json"),
    ] {
        let error = store.load_reader(archive.as_slice(), &LoadOptions::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} where {expected} was expected");
        assert!(store.list().unwrap().is_empty());
        assert_eq!(leftovers(&store), [""; 0]);
        assert_eq!(fs::read_dir(store.root().join("layers")).unwrap().count(), 0);
    }
    assert!(blobs.len() == 2 && !manifest.is_empty());
}

#[test]
fn loads_a_folder_and_reads_nothing_outside_it() {
    let folder = Folder::new("layout");
    let store = store(&folder);
    let layout = folder.path().join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let (blobs, manifest) = blobs_of(&packed("x", "layout"));
    for content in blobs.values().chain([&manifest]) {
        fs::write(layout.join("blobs/sha256").join(Digest::of(content).hex()), content).unwrap();
    }
    let index = serde_json::json!({"manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(b"absent"), "size": 1,
         "platform": {"os": "linux", "architecture": "riscv64"}},
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(&manifest),
         "size": manifest.len(), "annotations": {"org.opencontainers.image.ref.name": "r.example/x:1"}},
    ]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    let images = store.load(&layout, &LoadOptions::default()).unwrap();
    assert_eq!((images.len(), images[0].repo_tags.as_slice()), (1, &["r.example/x:1".to_owned()][..]));
    let blob = layout.join("blobs/sha256").join(Digest::of(&manifest).hex());
    fs::rename(&blob, folder.path().join("outside")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("outside"), &blob).unwrap();
    assert!(store.load(&layout, &LoadOptions::default()).is_err());
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs {program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn agrees_with_skopeo_on_every_kind_of_archive() {
    let folder = Folder::new("skopeo");
    let store = store(&folder);
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("packed.tar"), packed("docker.io/x/app:1", "skopeo")).unwrap();
    let ours = store.load(Path::new(&at("packed.tar")), &LoadOptions::default()).unwrap();
    let copy = |from: &str, to: &str| run("skopeo", &["--insecure-policy", "copy", "-q", from, to]);
    // Both of the formats that a packed image is at once.
    let (oci, docker) = (format!("oci-archive:{}", at("packed.tar")), format!("docker-archive:{}", at("packed.tar")));
    copy(&oci, &format!("docker-archive:{}:docker.io/x/from-oci:1", at("from-oci.tar")));
    copy(&docker, &format!("oci-archive:{}:docker.io/x/from-docker:1", at("from-docker.tar")));
    copy(&docker, &format!("oci:{}:docker.io/x/layout:1", at("layout")));
    run(
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "-q",
            "--dest-compress-format",
            "zstd",
            &oci,
            &format!("oci:{}:docker.io/x/zstd:1", at("zstd")),
        ],
    );
    for (path, tag) in
        [("from-oci.tar", "from-oci"), ("from-docker.tar", "from-docker"), ("layout", "layout"), ("zstd", "zstd")]
    {
        let images = store.load(Path::new(&at(path)), &LoadOptions::default()).unwrap();
        let name = format!("docker.io/x/{tag}:1");
        assert!(images[0].repo_tags.contains(&name), "{:?} lacks {name}", images[0].repo_tags);
        assert_eq!(app_of(&images[0]), "skopeo");
        assert_eq!(images[0].layers, ours[0].layers, "the same files are the same layer");
    }
}
