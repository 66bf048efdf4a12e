use std::path::Path;

use super::*;

mod issuers;

const ISSUER: &str = r#"
[tenants.acme]
bundle = "acme"
log_origin = "countersign.example.com/acme"
[[tenants.acme.issuers]]
issuer = "https://idp.example.com"
audience = "countersign"
algorithms = ["EdDSA"]
keys = "jwks.json"
subjects = ["person", "agent"]
"#;

fn load_with(text: &str, overrides: &Overrides) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(Some(&path), overrides)
}

fn load(text: &str) -> Result<Config, ConfigError> {
    load_with(text, &Overrides::default())
}

/// The error of the usual configuration with `before` in front and `after` behind, without the directory of the file.
fn refusal(before: &str, after: &str) -> String {
    let text = load(&format!("{before}{ISSUER}{after}")).unwrap_err().to_string();
    match text.find("c.toml:") {
        Some(at) => text[at..].to_owned(),
        None => text,
    }
}

#[test]
fn defaults_are_within_their_ranges() {
    let config = load(ISSUER).unwrap();
    let expected = Config { tenants: config.tenants.clone(), ..Config::default() };
    assert_eq!(config, expected);
    for range in RANGES {
        assert!((range.min..=range.max).contains(&range.value(&config)), "{}", range.key);
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_closest_known() {
    assert_eq!(
        refusal("[server]\nlsten = \"127.0.0.1:1\"\n", ""),
        "c.toml:2: unknown key `server.lsten`; did you mean `server.listen`?"
    );
    assert_eq!(refusal("\n[sever]\nx = 1\n", ""), "c.toml:2: unknown key `sever`; did you mean `server`?");
    assert_eq!(
        refusal("listen = \"127.0.0.1:1\"\n", ""),
        "c.toml:1: unknown key `listen`; did you mean `server.listen`?"
    );
    assert_eq!(
        refusal("", "audiance = \"x\"\n"),
        "c.toml:11: unknown key `tenants.acme.issuers[0].audiance`; did you mean `tenants.acme.issuers[0].audience`?"
    );
    assert_eq!(
        refusal("[tokens]\nzzz = 1\n", ""),
        "c.toml:2: unknown key `tokens.zzz`; known here are `ttl_seconds`, `completion_seconds`"
    );
    // Not a key, although it is a field.
    assert!(refusal("development = true\n", "").starts_with("c.toml:1: unknown key `development`;"));
}

#[test]
fn a_wrong_value_is_named_with_its_place() {
    for (before, after, expected) in [
        (
            "[server]\nlisten = \"localhost:1\"\n",
            "",
            "c.toml:2:10: `server.listen`: not an address such as `127.0.0.1:8443`",
        ),
        (
            "[limits]\nbatch_items = \"x\"\n",
            "",
            "c.toml:2:15: `limits.batch_items`: invalid type: string \"x\", expected a whole number",
        ),
        (
            "[limits]\nbatch_items = -1\n",
            "",
            "c.toml:2:15: `limits.batch_items`: invalid value: integer `-1`, expected a whole number",
        ),
        ("[limits]\nbatch_items = 1.5\n", "", "c.toml:2:15: `limits.batch_items`: invalid type: "),
        ("[server\n", "", "c.toml:1:"),
        (
            "[server]\ndrain_seconds = 1\ndrain_seconds = 2\n",
            "",
            "c.toml:3:1: `drain_seconds` stands here a second time",
        ),
        (
            "[tenants.Acme]\nbundle = \"b\"\nlog_origin = \"o\"\n",
            "",
            "c.toml:1:10: `tenants.Acme`: a tenant is 1 to 63 of the characters",
        ),
        ("[tenants.b]\nlog_origin = \"o\"\n", "", "c.toml:1:1: the key `bundle` is missing; add it"),
        ("", "max_age_seconds = true\n", "c.toml:11:19: `tenants.acme.issuers[0].max_age_seconds`: "),
    ] {
        let text = refusal(before, after);
        assert!(text.starts_with(expected), "{text}\nis not\n{expected}");
        assert!(!text.contains("u32") && !text.contains("struct"), "{text}");
    }
}

#[test]
fn a_shared_secret_algorithm_is_refused_with_the_reason() {
    let text = load(&ISSUER.replace("EdDSA", "HS256")).unwrap_err().to_string();
    assert!(text.contains("`HS256` is a shared secret, with which whoever verifies could also forge"), "{text}");
    assert!(
        load(&ISSUER.replace("EdDSA", "none"))
            .unwrap_err()
            .to_string()
            .contains("unknown value `none`, expected one of `EdDSA`")
    );
}

#[test]
fn every_number_has_a_range_that_its_error_states() {
    for range in RANGES {
        let (section, name) = range.key.split_once('.').unwrap();
        for wrong in [range.min.checked_sub(1), range.max.checked_add(1)].into_iter().flatten() {
            let text = refusal(&format!("[{section}]\n{name} = {wrong}\n"), "");
            let expected = format!("`{}` is {wrong}, and must be {} to {}", range.key, range.min, range.max);
            assert!(text.starts_with(&expected), "{text}");
        }
    }
    let text = refusal("", "max_age_seconds = 0\n");
    assert!(text.starts_with("`tenants.acme.issuers[0].max_age_seconds` is 0, and must be 1 to "), "{text}");
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    let text = refusal("[limits]\nrequests_in_flight = 100\n", "");
    assert!(
        text.starts_with(
            "`limits.requests_in_flight_per_caller`: 256 is more than `limits.requests_in_flight`, which is 100"
        ),
        "{text}"
    );
    let text = refusal("[sessions]\nmax_ttl_seconds = 60\n", "");
    assert!(text.starts_with("`sessions.default_ttl_seconds`: 3600 is more than `sessions.max_ttl_seconds`"), "{text}");
}

#[test]
fn an_issuer_is_complete_or_refused() {
    for (from, to, expected) in [
        ("\"https://idp.example.com\"", "\"\"", "`tenants.acme.issuers[0].issuer`: 1 to 1024 bytes"),
        (
            "\"https://idp.example.com\"",
            "\"https://idp.example.com \"",
            "`tenants.acme.issuers[0].issuer`: 1 to 1024 bytes",
        ),
        (
            "https://idp.example.com",
            DEV_ISSUER,
            "`tenants.acme.issuers[0].issuer`: `https://dev.countersign.invalid` is the issuer of development",
        ),
        ("\"countersign\"", "\"\"", "`tenants.acme.issuers[0].audience`: 1 to 1024 bytes"),
        ("[\"EdDSA\"]", "[]", "`tenants.acme.issuers[0].algorithms`: name at least one"),
        ("[\"person\", \"agent\"]", "[]", "`tenants.acme.issuers[0].subjects`: name at least one"),
        ("jwks.json", "https://idp.example.com/jwks", "`tenants.acme.issuers[0].keys`: a local file"),
        ("\"jwks.json\"", "\"\"", "`tenants.acme.issuers[0].keys`: empty"),
        ("\"acme\"\n", "\"\"\n", "`tenants.acme.bundle`: empty"),
        ("countersign.example.com/acme", "a b", "`tenants.acme.log_origin`: an origin is 1 to 255 printable"),
    ] {
        let text = load(&ISSUER.replace(from, to)).unwrap_err().to_string();
        assert!(text.starts_with(expected), "{text}\nis not\n{expected}");
    }
    let alone = "[tenants.acme]\nbundle = \"acme\"\nlog_origin = \"o\"\n";
    assert!(load(alone).unwrap_err().to_string().starts_with("`tenants.acme`: no issuer, so nobody could call"));
}

#[test]
fn an_issuer_and_an_origin_belong_to_one_tenant() {
    let second = ISSUER.replace("tenants.acme", "tenants.beta");
    let text = load(&format!("{ISSUER}{second}")).unwrap_err().to_string();
    assert!(text.starts_with("`tenants.beta.log_origin`: `tenants.acme.log_origin` has the same origin"), "{text}");
    let text = load(&format!("{ISSUER}{}", second.replace("com/acme", "com/beta"))).unwrap_err().to_string();
    assert!(
        text.starts_with("`tenants.beta.issuers[0].issuer`: `tenants.acme.issuers[0]` has the same issuer"),
        "{text}"
    );
}

#[test]
fn without_an_issuer_it_does_not_start() {
    assert!(matches!(load(""), Err(ConfigError::NoIssuer)));
    let text = Config::load(None, &Overrides::default()).unwrap_err().to_string();
    assert!(text.starts_with("no issuer is configured") && text.contains("`--dev`"), "{text}");
}

#[test]
fn plaintext_beyond_loopback_does_not_start() {
    for listen in ["0.0.0.0:8443", "[::]:8443", "192.0.2.1:8443"] {
        let text = refusal(&format!("[server]\nlisten = \"{listen}\"\n"), "");
        assert!(text.starts_with(&format!("`server.listen` is `{listen}` without TLS")), "{text}");
        let tls = format!("[server]\nlisten = \"{listen}\"\n[server.tls]\ncertificate = \"c\"\nkey = \"k\"\n");
        assert!(load(&format!("{tls}{ISSUER}")).is_ok(), "{listen}");
    }
    let text = refusal("[server]\nhttp = \"127.0.0.1:8443\"\n", "");
    assert!(text.starts_with("`server.http`: the same address as `server.listen`"), "{text}");
}

#[test]
fn a_collector_is_a_plain_address_without_secrets() {
    for good in ["http://127.0.0.1:4317", "http://otel-collector.monitoring:4317/", "http://[::1]:4317"] {
        assert!(load(&format!("{ISSUER}[telemetry]\notlp_endpoint = \"{good}\"\n")).is_ok(), "{good}");
    }
    for bad in [
        "",
        "collector:4317",
        "https://c:4317",
        "http://user:pw@c:4317",
        "http://c",
        "http://c:x",
        "http://c:1/v1?key=s",
    ] {
        let text = refusal("", &format!("[telemetry]\notlp_endpoint = \"{bad}\"\n"));
        assert!(text.starts_with("`telemetry.otlp_endpoint`: ") && !text.contains("pw"), "{text}");
    }
    let text = refusal("", "[telemetry]\nlog_filter = \"inof\"\n");
    assert!(text.starts_with("`telemetry.log_filter`: `inof` is not a log filter"), "{text}");
}

#[test]
fn overrides_win_over_the_file() {
    let overrides = Overrides {
        listen: Some("127.0.0.1:1".parse().unwrap()),
        http: Some("127.0.0.1:2".parse().unwrap()),
        data_dir: Some("here".into()),
        drain_seconds: Some(3),
        log_filter: Some("debug".to_owned()),
        log_format: Some(LogFormat::Json),
        otlp_endpoint: Some("http://c:4317".to_owned()),
        tls_key: Some("other.pem".into()),
        ..Overrides::default()
    };
    let file = format!(
        "[server]\nlisten = \"127.0.0.1:9\"\ndata_dir = \"there\"\n[server.tls]\ncertificate = \"/c.pem\"\nkey = \"k.pem\"\n\
         [telemetry]\nlog_filter = \"warn\"\n{ISSUER}"
    );
    let config = load_with(&file, &overrides).unwrap();
    assert_eq!((config.server.listen.port(), config.server.http.port()), (1, 2));
    assert_eq!((config.server.data_dir.to_str(), config.server.drain_seconds), (Some("here"), 3));
    let tls = config.server.tls.unwrap();
    assert_eq!((tls.certificate.to_str(), tls.key.to_str()), (Some("/c.pem"), Some("other.pem")));
    assert_eq!((config.telemetry.log_filter.as_str(), config.telemetry.log_format), ("debug", LogFormat::Json));
    assert_eq!(config.telemetry.otlp_endpoint.as_deref(), Some("http://c:4317"));

    let half = Overrides { tls_certificate: Some("c".into()), ..Overrides::default() };
    let text = load_with(ISSUER, &half).unwrap_err().to_string();
    assert!(text.starts_with("`server.tls.key`: missing;") && text.contains("`--tls-key`"), "{text}");
}

#[test]
fn a_flag_wins_over_its_variable_and_all_have_help() {
    use clap::{Args as _, Command};
    let command = Overrides::augment_args(Command::new("serve"));
    for argument in command.get_arguments() {
        let name = argument.get_long().unwrap();
        assert!(argument.get_help().is_some(), "{name}");
        let variable = argument.get_env().unwrap().to_str().unwrap();
        assert_eq!(variable, format!("COUNTERSIGN_{}", name.to_uppercase().replace('-', "_")));
    }
}

#[test]
fn paths_in_the_file_start_at_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, ISSUER.replace("jwks.json", "/abs/jwks.json")).unwrap();
    let config = Config::load(None, &Overrides { config: Some(path), ..Overrides::default() }).unwrap();
    let tenant = config.tenants.values().next().unwrap();
    assert_eq!(tenant.bundle, dir.path().join("acme"));
    assert_eq!(tenant.issuers[0].keys.as_deref(), Some(Path::new("/abs/jwks.json")));
    assert_eq!(config.server.data_dir, Path::new("/var/lib/countersign"));
}

#[test]
fn a_missing_file_is_named() {
    let text = Config::load(Some(Path::new("/nowhere/c.toml")), &Overrides::default()).unwrap_err().to_string();
    assert!(text.starts_with("cannot read the configuration `/nowhere/c.toml`: "), "{text}");
}

#[test]
fn the_effective_configuration_gives_itself_again() {
    let more = "max_age_seconds = 60\n[telemetry]\notlp_endpoint = \"http://c:1\"\n[server.tls]\ncertificate = \"c\"\nkey = \"k\"\n";
    let config = load(&format!("{ISSUER}{more}")).unwrap();
    let printed = config.effective_toml().unwrap();
    assert_eq!(load(&printed).unwrap(), config, "{printed}");
}

#[test]
fn a_development_server_needs_nothing_and_stays_on_loopback() {
    let (data, bundle) = (Path::new("/tmp/dev"), Path::new("policies"));
    let config = Config::development(data, bundle, &Overrides::default()).unwrap();
    assert!(config.is_development() && !load(ISSUER).unwrap().is_development());
    let (name, tenant) = config.tenants.iter().next().unwrap();
    assert_eq!((name.as_str(), tenant.bundle.as_path()), (DEV_TENANT, bundle));
    assert_eq!((tenant.issuers[0].issuer.as_str(), tenant.issuers[0].audience.as_str()), (DEV_ISSUER, DEV_AUDIENCE));
    assert_eq!(tenant.issuers[0].keys.as_deref(), Some(Path::new("/tmp/dev/dev-issuer.pub.pem")));

    let elsewhere = Overrides { data_dir: Some("/tmp/else".into()), ..Overrides::default() };
    let config = Config::development(data, bundle, &elsewhere).unwrap();
    assert!(config.tenants.values().all(|tenant| tenant.issuers[0].keys.as_ref().unwrap().starts_with("/tmp/else")));

    let beyond: SocketAddr = "0.0.0.0:8443".parse().unwrap();
    let (certificate, key) = (Some("c".into()), Some("k".into()));
    for overrides in [
        Overrides { listen: Some(beyond), ..Overrides::default() },
        Overrides { http: Some(beyond), ..Overrides::default() },
        Overrides { listen: Some(beyond), tls_certificate: certificate, tls_key: key, ..Overrides::default() },
    ] {
        let text = Config::development(data, bundle, &overrides).unwrap_err().to_string();
        assert!(
            text.contains("is `0.0.0.0:8443`, and a development server") && text.contains("loopback only"),
            "{text}"
        );
    }
    let file = Overrides { config: Some("c.toml".into()), ..Overrides::default() };
    assert!(matches!(Config::development(data, bundle, &file), Err(ConfigError::DevelopmentWithFile { .. })));
}

#[test]
fn the_example_is_valid_and_complete() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("countersign.example.toml");
    let config = Config::load(Some(&path), &Overrides::default()).unwrap();
    // What it sets to a default is the default.
    assert_eq!(
        (&config.limits, &config.tokens, &config.sessions, &config.approvals, &config.break_glass),
        (&Limits::default(), &Tokens::default(), &Sessions::default(), &Approvals::default(), &BreakGlass::default())
    );
    let text = std::fs::read_to_string(&path).unwrap();
    for key in RANGES.iter().map(|range| range.key).chain(syntax::OTHER_KEYS.iter().copied()) {
        let last = key.rsplit('.').next().unwrap();
        assert!(text.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{last} = "))), "{key}");
    }
}

#[test]
fn the_documentation_has_every_key_with_its_default_and_range() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let defaults = Config::default();
    for range in RANGES {
        let (section, name) = range.key.split_once('.').unwrap();
        let part = text.split("\n## ").find(|part| part.starts_with(&format!("`[{section}]`"))).unwrap();
        let row = part
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` |")))
            .unwrap_or_else(|| panic!("{}", range.key));
        let unit = if range.unit.is_empty() { "count" } else { range.unit };
        for cell in [range.value(&defaults).to_string(), format!("{} to {}", range.min, range.max), unit.to_owned()] {
            assert!(row.contains(&format!("| {cell} |")), "{row}\nlacks\n{cell}");
        }
    }
    for key in syntax::OTHER_KEYS {
        let last = key.rsplit('.').next().unwrap();
        assert!(text.contains(&format!("| `{last}` |")), "{key}");
    }
    let command = <Overrides as clap::Args>::augment_args(clap::Command::new("serve"));
    for argument in command.get_arguments() {
        let (flag, variable) = (argument.get_long().unwrap(), argument.get_env().unwrap().to_str().unwrap());
        assert!(text.contains(&format!("| `--{flag}` | `{variable}` |")), "--{flag}");
    }
}

#[test]
fn what_publishing_asks_for_can_be_given_or_is_refused() {
    let key = "alice+86c9ab6c+AX+jsrD3YrjrAy1lhXF058krTlGS1rS0R7D7re81DWxf";
    let publishing = |text: &str| load(&format!("{ISSUER}[tenants.acme.publishing]\n{text}\n"));
    for (text, expected) in [
        ("authors = [\"alice\"]", "`tenants.acme.publishing.authors[0]`: "),
        ("signatures = 2", "`tenants.acme.publishing.signatures`: nobody could sign"),
        ("solver = \"\"", "`tenants.acme.publishing.solver`: empty"),
        ("wacht = true", "unknown key `tenants.acme.publishing.wacht`"),
    ] {
        let text = publishing(text).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}\nis not\n{expected}");
    }
    let other = key.replacen("alice", "bob", 1);
    let shared = publishing(&format!("authors = [{key:?}, {other:?}]\nsignatures = 2")).unwrap_err().to_string();
    assert!(shared.contains("authors[1]"), "{shared}");
    // One name is one author, whatever the number of keys.
    let twice = publishing(&format!("authors = [{key:?}, {key:?}]\nsignatures = 2")).unwrap_err().to_string();
    assert!(twice.starts_with("`tenants.acme.publishing.signatures`: out of range; 1 different"), "{twice}");
    assert!(publishing(&format!("authors = [{key:?}]\nsignatures = 1")).is_ok());
    let config = publishing("watch = true").unwrap();
    assert!(config.tenants.values().all(|tenant| tenant.publishing.watch && tenant.publishing.authors.is_empty()));
}

#[test]
fn what_is_kept_elsewhere_is_elsewhere() {
    for (text, expected) in [
        ("[head]\nfile = \"/var/lib/countersign/head\"", "`head.file`: in the data directory"),
        ("[head]\nfile = \"/h\"\ncommand = [\"/c\"]", "`head`: a head is kept in one place"),
        ("[head]\ncommand = [\"/c\"]", "`head.every_seconds`: a command is run at an interval"),
        ("[head]\nevery_seconds = 1", "`head.every_seconds`: there is no head"),
        ("[head]\ncommand = [\"c\"]\nevery_seconds = 1", "`head.command`: the program is not an absolute path"),
        ("[keys]\nencryption = { command = [] }", "`keys.encryption.command`: empty"),
        ("[keys]\nencryption = { variable = \"\" }", "`keys.encryption.variable`: "),
        ("[keys]\nprevious_encryption = { file = \"/k\" }", "`keys.previous_encryption`: there is no"),
        ("[backup]\ndirectory = \"\"", "`backup.directory`: empty"),
    ] {
        let text = load(&format!("{ISSUER}{text}\n")).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}\nis not\n{expected}");
    }
    let good = "[keys.encryption]\nfile = \"k\"\n[head]\nfile = \"/h\"\n[backup]\ndirectory = \"b\"\n";
    let config = load(&format!("{ISSUER}{good}")).unwrap();
    let under = |path: &Path, name: &str| path.is_absolute() && path.ends_with(name);
    assert!(matches!(&config.keys.encryption, Some(SecretSource::File(file)) if under(file, "k")));
    assert!(under(config.backup.directory.as_deref().unwrap(), "b") && config.head.every().is_none());
}
