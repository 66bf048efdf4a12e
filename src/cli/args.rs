//! Arguments that several commands share, and how they are read.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use countersign::client::{Client, ClientConfig, Credentials, entity, struct_from_record};
use countersign::proto::{Entity, Operation};
use countersign_core::value::record_from_json;
use countersign_core::{EntityError, EntityRef, HolderKind, Record};

use zeroize::Zeroizing;

use super::failure::Failure;

/// The variable with the credential. Read here and not by clap, so that an explicit file is never in conflict with it.
const TOKEN_VARIABLE: &str = "COUNTERSIGN_TOKEN";

/// Where the server is, and who calls.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// The server
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "COUNTERSIGN_ENDPOINT",
        default_value = "http://127.0.0.1:8443",
        help_heading = "Connection"
    )]
    pub endpoint: String,
    /// The caller's credential, a JWT; better in COUNTERSIGN_TOKEN, which other users of the machine cannot see
    #[arg(long, global = true, value_name = "JWT", conflicts_with = "token_file", help_heading = "Connection")]
    pub token: Option<String>,
    /// The file with the caller's credential
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub token_file: Option<PathBuf>,
    /// The certificate authority that the server's certificate must lead to, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "COUNTERSIGN_CA", help_heading = "Connection")]
    pub ca: Option<PathBuf>,
    /// The client certificate to connect with, in PEM: who calls, or whom a capability is bound to
    #[arg(long, global = true, value_name = "FILE", requires = "client_key", help_heading = "Connection")]
    pub client_certificate: Option<PathBuf>,
    /// The private key of the client certificate, in PEM
    #[arg(long, global = true, value_name = "FILE", requires = "client_certificate", help_heading = "Connection")]
    pub client_key: Option<PathBuf>,
}

/// To whom a capability is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HolderArg {
    Certificate,
    Key,
}

impl From<HolderArg> for HolderKind {
    fn from(arg: HolderArg) -> Self {
        match arg {
            HolderArg::Certificate => Self::Certificate,
            HolderArg::Key => Self::Key,
        }
    }
}

impl Connection {
    /// Connects as the caller.
    pub async fn client(&self) -> Result<Client, Failure> {
        let mut config =
            ClientConfig::new(&self.endpoint).credentials(self.credentials(std::env::var(TOKEN_VARIABLE).ok()));
        if let Some(path) = &self.ca {
            config = config.ca_pem(read_file(path)?);
        }
        if let (Some(certificate), Some(key)) = (&self.client_certificate, &self.client_key) {
            config = config.identity_pem(read_file(certificate)?, Zeroizing::new(read_file(key)?));
        }
        Ok(Client::connect(config).await?)
    }

    fn credentials(&self, variable: Option<String>) -> Credentials {
        match (&self.token, &self.token_file, variable) {
            (Some(token), _, _) => Credentials::bearer(token.as_str()),
            (None, Some(path), _) => Credentials::file(path),
            (None, None, Some(token)) if !token.is_empty() => Credentials::bearer(token),
            (None, None, _) => Credentials::none(),
        }
    }
}

/// What is to be done, and as whom.
#[derive(Debug, Clone, Args)]
pub struct ActionArgs {
    /// The operation, such as `export`
    pub operation: String,
    /// What is acted upon, such as `Dataset::customers`
    #[arg(value_parser = parse_entity)]
    pub resource: EntityRef,
    /// The enforcement point that executes it, such as `warehouse`
    #[arg(long, value_name = "NAME")]
    pub audience: String,
    /// The arguments: a JSON object, `@FILE`, or `-` for stdin
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub input: String,
    /// The circumstances that the enforcement point vouches for: a JSON object, `@FILE`, or `-` for stdin
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub environment: String,
}

impl ActionArgs {
    /// The operation as the wire has it.
    pub fn operation(&self) -> Result<Operation, Failure> {
        if self.input == "-" && self.environment == "-" {
            return Err(Failure::usage("`--input` and `--environment` cannot both come from stdin; put one in a file"));
        }
        let send = |text: &str, name: &str| {
            let record = read_record(text, name)?;
            struct_from_record(&record, name).map(Some).map_err(|error| Failure::usage(error.to_string()))
        };
        Ok(Operation {
            name: self.operation.clone(),
            resource: Some(entity(&self.resource)),
            input: send(&self.input, "input")?,
            environment: send(&self.environment, "environment")?,
        })
    }
}

/// Who acts, when that is not the caller.
#[derive(Debug, Clone, Default, Args)]
pub struct PrincipalArgs {
    /// Who acts, when that is not the caller, such as `Agent::etl-bot`; policy must permit it
    #[arg(long, value_name = "ENTITY", value_parser = parse_entity, conflicts_with = "principal_credential")]
    pub principal: Option<EntityRef>,
    /// The credential (JWT) of who acts, instead of `--principal`: `@FILE`, or `-` for stdin
    #[arg(long, value_name = "@FILE")]
    pub principal_credential: Option<String>,
}

impl PrincipalArgs {
    /// The two fields of the wire.
    pub fn fields(&self) -> Result<(Option<Entity>, String), Failure> {
        let credential = match &self.principal_credential {
            None => String::new(),
            Some(text) => read_secret(text, "principal-credential")?,
        };
        Ok((self.principal.as_ref().map(entity), credential))
    }
}

/// `Dataset::"customers"`, or what a shell leaves of it: `Dataset::customers`.
pub fn parse_entity(text: &str) -> Result<EntityRef, EntityError> {
    if text.contains('"') {
        return EntityRef::parse(text);
    }
    match text.rsplit_once("::") {
        Some((kind, id)) => EntityRef::new(kind, id),
        None => EntityRef::parse(text),
    }
}

/// `30m`, `1h 30m`, `90s`, `7d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let form = || format!("`{}` is not a duration; write it as `15m`, `1h 30m` or `7d`", text.escape_debug());
    let span: jiff::Span = text.parse().map_err(|_| form())?;
    // A day has 24 hours here. Months and years have no length of their own, and are refused.
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| form())?;
    Duration::try_from(duration).map_err(|_| form())
}

/// A time in RFC 3339, or a day, which begins in UTC.
pub fn parse_time(text: &str) -> Result<jiff::Timestamp, String> {
    let day = || {
        // Not as dates are parsed otherwise, which leaves a time without a zone away.
        let day = jiff::civil::Date::strptime("%Y-%m-%d", text).ok()?;
        day.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|day| day.timestamp())
    };
    let form = || format!("`{}` is no time; write `2026-11-01` or `2026-11-01T08:00:00Z`", text.escape_debug());
    text.parse().ok().or_else(day).ok_or_else(form)
}

/// A record: given in place, in a file as `@FILE`, or on stdin as `-`.
pub fn read_record(text: &str, name: &str) -> Result<Record, Failure> {
    let text = read_text(text, name)?;
    record_from_json(&text).map_err(|error| {
        Failure::usage(format!("`--{name}`: {error}")).hint("write a JSON object, such as `--input '{\"rows\": 500}'`")
    })
}

/// A secret that was not meant to stand on a command line: in a file as `@FILE`, on stdin as `-`, or after all in place.
pub fn read_secret(text: &str, name: &str) -> Result<String, Failure> {
    Ok(read_text(text, name)?.trim().to_owned())
}

/// A text in a file as `@FILE`, on stdin as `-`, or in place.
pub fn read_text(text: &str, name: &str) -> Result<String, Failure> {
    if text == "-" {
        let mut read = String::new();
        return match std::io::stdin().read_to_string(&mut read) {
            Ok(_) => Ok(read),
            Err(error) => Err(Failure::new(format!("cannot read `--{name}` from stdin: {error}"))),
        };
    }
    match text.strip_prefix('@') {
        Some(path) => String::from_utf8(read_file(&PathBuf::from(path))?)
            .map_err(|_| Failure::usage(format!("`{path}` is not UTF-8 text"))),
        // No key, JSON document or credential is also the name of a file.
        None if std::path::Path::new(text).is_file() => {
            let problem = format!("`--{name}`: `{text}` is a file, and its name is no content");
            Err(Failure::usage(problem).hint(format!("to have it read, write `@{text}`")))
        }
        None => Ok(text.to_owned()),
    }
}

/// A whole file.
pub fn read_file(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::new(format!("cannot read `{}`: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_is_written_as_in_cedar_or_as_a_shell_leaves_it() {
        let customers = EntityRef::new("Dataset", "customers").unwrap();
        for text in ["Dataset::\"customers\"", "Dataset::customers"] {
            assert_eq!(parse_entity(text).unwrap(), customers, "{text}");
        }
        assert_eq!(parse_entity("Ns::Tool::a b").unwrap(), EntityRef::new("Ns::Tool", "a b").unwrap());
        assert_eq!(parse_entity("Ns::Tool::\"a::b\"").unwrap(), EntityRef::new("Ns::Tool", "a::b").unwrap());
        for bad in ["customers", "Dataset::", "::x", "Data set::x", "Dataset::\"x", ""] {
            assert!(parse_entity(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn input_is_read_strictly() {
        assert_eq!(read_record("{\"rows\":500}", "input").unwrap().len(), 1);
        for bad in ["", "[]", "{\"a\":1,\"a\":2}", "{\"a\":null}", "{\"a\":1.5}", "{\"a\":9007199254740993}", "{} x"] {
            assert_eq!(read_record(bad, "input").unwrap_err().exit().code(), 2, "{bad}");
        }
        assert!(read_record("@/no/such/file", "input").is_err());
    }

    #[test]
    fn input_comes_from_a_file_too() {
        let path = std::env::temp_dir().join(format!("countersign-input-{}.json", std::process::id()));
        std::fs::write(&path, "{\"rows\": 500}\n").unwrap();
        let record = read_record(&format!("@{}", path.display()), "input");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(record.unwrap().len(), 1);
    }

    #[test]
    fn durations_are_positive_and_have_units() {
        assert_eq!(parse_duration("1h 30m").unwrap(), Duration::from_secs(5_400));
        assert_eq!(parse_duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration("300d").unwrap(), Duration::from_secs(300 * 86_400));
        for bad in ["", "15", "-5m", "soon", "1mo"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_days_or_have_a_zone() {
        assert_eq!(parse_time("2026-11-01"), parse_time("2026-11-01T00:00:00Z"));
        assert_eq!(parse_time("2026-11-01T01:00:00+01:00"), parse_time("2026-11-01"));
        for bad in ["", "yesterday", "2026-13-01", "2026-11-01T08:00:00", "1.5"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_most_explicit_credential_wins() {
        let connection = |token: Option<&str>, file: Option<&str>| Connection {
            endpoint: String::new(),
            token: token.map(str::to_owned),
            token_file: file.map(PathBuf::from),
            ca: None,
            client_certificate: None,
            client_key: None,
        };
        let shown = |connection: Connection, variable: Option<&str>| {
            format!("{:?}", connection.credentials(variable.map(str::to_owned)))
        };
        assert_eq!(shown(connection(None, Some("f")), Some("v")), "Credentials(file f)");
        assert_eq!(shown(connection(None, None), Some("v")), "Credentials(bearer)");
        assert_eq!(shown(connection(None, None), Some("")), "Credentials(none)");
    }
}
