//! A cluster's keys and certificates on disk: made at first start, renewed when due.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::authority::{Authority, LEAF_LIFETIME, Purpose, Signed, renewal_due};
use crate::kubeconfig::{Kubeconfig, still_good};
use crate::seal::SealingKey;
use crate::token::TokenKey;
use crate::{Error, Identity};

/// The folder that holds a cluster's keys and certificates; every file is readable by its owner only.
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// Makes the folder if it is absent.
    pub fn open(folder: &Path) -> Result<Files, Error> {
        let failed = |operation| move |source| Error::File { operation, path: folder.display().to_string(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("create folder"))?;
        // It may have been there before, open to all.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed("close to others"))?;
        Ok(Files { folder: folder.into() })
    }

    /// The authority kept as `NAME.crt` and `NAME.key`, made at first use.
    pub fn authority(&self, name: &str, common_name: &str, now: Timestamp) -> Result<Authority, Error> {
        let key = self.read(&format!("{name}.key"))?;
        let certificate = self.read(&format!("{name}.crt"))?;
        if let (Some(certificate), Some(key)) = (certificate, key) {
            return Authority::read(&certificate, &key);
        }
        let authority = Authority::generate(common_name, now)?;
        // The key goes first: a certificate without its key is made anew, a key without its certificate too.
        self.write(&format!("{name}.key"), authority.key_pem())?;
        self.write(&format!("{name}.crt"), authority.certificate_pem())?;
        Ok(authority)
    }

    /// The certificate kept as `NAME.crt` and `NAME.key`; signed anew when absent, due, of another authority or purpose.
    pub fn signed(
        &self,
        name: &str,
        authority: &Authority,
        common_name: &str,
        purpose: &Purpose,
        now: Timestamp,
    ) -> Result<Signed, Error> {
        let (key_file, certificate_file) = (format!("{name}.key"), format!("{name}.crt"));
        if let (Some(certificate_pem), Some(key_pem)) = (self.read(&certificate_file)?, self.read(&key_file)?) {
            let serves = serves(&certificate_pem, authority, common_name, purpose);
            if serves && !renewal_due(&certificate_pem, now) {
                return Ok(Signed { certificate_pem, key_pem });
            }
        }
        let signed = authority.sign(common_name, purpose, now, LEAF_LIFETIME)?;
        self.write(&key_file, &signed.key_pem)?;
        self.write(&certificate_file, &signed.certificate_pem)?;
        Ok(signed)
    }

    /// The service-account key, made at first use.
    pub fn token_key(&self) -> Result<TokenKey, Error> {
        if let Some(pem) = self.read("sa.key")? {
            return TokenKey::read(&pem);
        }
        let key = TokenKey::generate()?;
        self.write("sa.key", key.pem())?;
        Ok(key)
    }

    /// The key that seals secrets at rest, made at first use.
    ///
    /// `must_exist` is set when sealed data exists already: a lost key is then an error, since a new one opens nothing.
    pub fn sealing_key(&self, must_exist: bool) -> Result<SealingKey, Error> {
        const FILE: &str = "encryption.key";
        match self.read(FILE)? {
            Some(text) => SealingKey::read(&text),
            None if must_exist => Err(Error::Untrusted(format!(
                "the encryption key {} is missing, and the data folder holds secrets that only it opens",
                self.folder.join(FILE).display()
            ))),
            None => {
                let key = SealingKey::generate("key1")?;
                self.write(FILE, &key.text())?;
                Ok(key)
            }
        }
    }

    /// Writes a kubeconfig file, unless the one there is still good. Tells whether it wrote.
    pub fn kubeconfig(&self, path: &Path, wanted: &Kubeconfig<'_>, now: Timestamp) -> Result<bool, Error> {
        match fs::read_to_string(path) {
            Ok(text) if still_good(&text, wanted, now) => Ok(false),
            _ => write_private(path, &wanted.text()).map(|()| true),
        }
    }

    fn read(&self, file: &str) -> Result<Option<String>, Error> {
        let path = self.folder.join(file);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { operation: "read", path: path.display().to_string(), source }),
        }
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Error> {
        write_private(&self.folder.join(file), text)
    }
}

/// Replaces a file as a whole, durably, readable by its owner only.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |operation| move |source| Error::File { operation, path: path.display().to_string(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    // What a crash left here (or somebody else laid here: a link, a file that all may read) must not receive the key.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("replace")(error)),
        _ => {}
    }
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed("create"))?;
    file.write_all(text.as_bytes()).map_err(failed("write"))?;
    file.sync_all().map_err(failed("sync"))?;
    fs::rename(&temporary, path).map_err(failed("rename"))?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync folder of"))
}

/// Whether a certificate is this authority's, for this name, and covers what `purpose` asks.
fn serves(certificate_pem: &str, authority: &Authority, common_name: &str, purpose: &Purpose) -> bool {
    let (Ok(leaf), Ok(root)) = (parsed(certificate_pem), parsed(authority.certificate_pem())) else {
        return false;
    };
    let (Ok(leaf), Ok(root)) = (leaf.parse_x509(), root.parse_x509()) else {
        return false;
    };
    if leaf.verify_signature(Some(root.public_key())).is_err() {
        return false;
    }
    let (organization, names, addresses): (Option<&String>, &[String], &[IpAddr]) = match purpose {
        Purpose::Client { organization } => (organization.as_ref(), &[], &[]),
        Purpose::Server { names, addresses } => (None, names, addresses),
        Purpose::Both { organization, names, addresses } => (organization.as_ref(), names, addresses),
    };
    let subject_is = leaf.subject().iter_common_name().any(|name| name.as_str() == Ok(common_name))
        && leaf
            .subject()
            .iter_organization()
            .filter_map(|name| name.as_str().ok())
            .eq(organization.map(String::as_str));
    subject_is && covers(&leaf, names, addresses)
}

pub(crate) fn covers(
    leaf: &x509_parser::certificate::X509Certificate<'_>,
    names: &[String],
    addresses: &[IpAddr],
) -> bool {
    use x509_parser::extensions::GeneralName;
    let Ok(alternatives) = leaf.subject_alternative_name() else { return false };
    let present = alternatives.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let has_name =
        |wanted: &String| present.iter().any(|name| matches!(name, GeneralName::DNSName(name) if name == wanted));
    let has_address = |wanted: &IpAddr| {
        let octets = match wanted {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        present.iter().any(|name| matches!(name, GeneralName::IPAddress(bytes) if *bytes == octets))
    };
    names.iter().all(has_name) && addresses.iter().all(has_address)
}

fn parsed(pem: &str) -> Result<x509_parser::pem::Pem, Error> {
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| Error::malformed("certificate", error))?;
    Ok(pem)
}

/// What proves a user in process, where no certificate is checked.
impl Identity {
    /// An identity that the caller vouches for.
    pub fn vouched(user: &str, groups: &[&str]) -> Identity {
        Identity {
            user: user.into(),
            groups: groups.iter().map(ToString::to_string).collect(),
            fingerprint: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("isopod-pki-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        folder
    }

    #[test]
    fn keeps_what_is_good_and_renews_what_is_due() {
        let path = folder("renew");
        let files = Files::open(&path).unwrap();
        let at = |days: i64| Timestamp::from_second(1_800_000_000 + days * 86_400).unwrap();
        let server = |names: &[&str]| Purpose::Server {
            names: names.iter().map(ToString::to_string).collect(),
            addresses: vec!["10.96.0.1".parse().unwrap()],
        };
        let authority = files.authority("ca", "kubernetes", at(0)).unwrap();
        assert_eq!(files.authority("ca", "kubernetes", at(1)).unwrap().certificate_pem(), authority.certificate_pem());
        let sign =
            |purpose: &Purpose, day| files.signed("apiserver", &authority, "kube-apiserver", purpose, at(day)).unwrap();
        let first = sign(&server(&["kubernetes"]), 0);
        assert!(first == sign(&server(&["kubernetes"]), 100), "kept while good");
        let wider = sign(&server(&["kubernetes", "kubernetes.default"]), 100);
        assert!(first != wider, "a name more is a new certificate");
        assert!(wider != sign(&server(&["kubernetes"]), 350), "renewed when due");
        assert_eq!(files.token_key().unwrap().pem(), files.token_key().unwrap().pem());
        assert!(files.sealing_key(true).is_err(), "a lost key is not replaced");
        let text = files.sealing_key(false).unwrap().text();
        assert_eq!(files.sealing_key(true).unwrap().text(), text);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn keys_are_their_owners_alone_whatever_lay_there_before() {
        let path = folder("modes");
        let elsewhere = folder("modes-elsewhere");
        fs::create_dir_all(&path).unwrap();
        fs::create_dir_all(&elsewhere).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(path.join("sa.key.new"), "left by a crash").unwrap();
        fs::set_permissions(path.join("sa.key.new"), fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(elsewhere.join("stolen"), path.join("encryption.key.new")).unwrap();
        let files = Files::open(&path).unwrap();
        files.token_key().unwrap();
        files.sealing_key(false).unwrap();
        let mode = |file: &Path| fs::symlink_metadata(file).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("sa.key")), 0o600);
        assert_eq!(mode(&path.join("encryption.key")), 0o600);
        assert!(!elsewhere.join("stolen").exists());
        fs::remove_dir_all(&path).unwrap();
        fs::remove_dir_all(&elsewhere).unwrap();
    }

    #[test]
    fn rewrites_a_kubeconfig_only_when_it_must() {
        let path = folder("kubeconfig");
        let files = Files::open(&path).unwrap();
        let at = |days: i64| Timestamp::from_second(1_800_000_000 + days * 86_400).unwrap();
        let authority = files.authority("ca", "kubernetes", at(0)).unwrap();
        let client = authority
            .sign("admin", &Purpose::Client { organization: Some("system:masters".into()) }, at(0), LEAF_LIFETIME)
            .unwrap();
        let wanted = Kubeconfig {
            cluster: "isopod",
            user: "admin",
            server: "https://127.0.0.1:6443",
            authority_pem: authority.certificate_pem(),
            client: &client,
        };
        let file = path.join("admin.conf");
        assert!(files.kubeconfig(&file, &wanted, at(0)).unwrap());
        assert!(!files.kubeconfig(&file, &wanted, at(10)).unwrap());
        assert!(files.kubeconfig(&file, &wanted, at(300)).unwrap());
        let moved = Kubeconfig { server: "https://127.0.0.1:7443", ..wanted.clone() };
        assert!(files.kubeconfig(&file, &moved, at(0)).unwrap());
        fs::remove_dir_all(&path).unwrap();
    }
}
