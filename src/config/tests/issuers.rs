//! What is said about issuers.

use super::*;

#[test]
fn keys_come_from_exactly_one_place_that_may_be_asked() {
    let with = |keys: &str| load(&ISSUER.replace("keys = \"jwks.json\"", keys));
    for good in [
        "discovery = true",
        "jwks_uri = \"https://idp.example.com/keys\"\nca = \"ca.pem\"\njwks_token = \"token\"",
        "jwks_uri = \"http://127.0.0.1:8080/keys\"",
        "jwks_uri = \"http://[::1]:8080/keys\"",
        "discovery = true\nrefresh_seconds = 10\nstale_seconds = 10",
    ] {
        let config = with(good).unwrap();
        assert_eq!(load(&config.effective_toml().unwrap()).unwrap(), config, "{good}");
    }
    for (keys, expected) in [
        ("", "`tenants.acme.issuers[0]`: say in exactly one way where its keys are"),
        ("keys = \"k\"\ndiscovery = true", "`tenants.acme.issuers[0]`: say in exactly one way"),
        ("keys = \"k\"\njwks_uri = \"https://x/\"", "`tenants.acme.issuers[0]`: say in exactly one way"),
        ("jwks_uri = \"https://x/\"\ndiscovery = true", "`tenants.acme.issuers[0]`: say in exactly one way"),
        ("jwks_uri = \"keys\"", "`tenants.acme.issuers[0].jwks_uri`: not a URL"),
        (
            "jwks_uri = \"file:///etc/passwd\"",
            "`tenants.acme.issuers[0].jwks_uri`: neither `https` nor `http` to a loopback",
        ),
        (
            "jwks_uri = \"http://idp.example.com/\"",
            "`tenants.acme.issuers[0].jwks_uri`: neither `https` nor `http` to a",
        ),
        (
            "jwks_uri = \"http://localhost/\"",
            "`tenants.acme.issuers[0].jwks_uri`: neither `https` nor `http` to a loopback",
        ),
        (
            "jwks_uri = \"http://10.0.0.1/\"",
            "`tenants.acme.issuers[0].jwks_uri`: neither `https` nor `http` to a loopback",
        ),
        ("jwks_uri = \"https://a:b@x/\"", "`tenants.acme.issuers[0].jwks_uri`: has a fragment or credentials in it"),
        (
            "discovery = true\njwks_token = \"t\"",
            "`tenants.acme.issuers[0].jwks_token`: is sent to a configured address",
        ),
        ("keys = \"k\"\nca = \"c\"", "`tenants.acme.issuers[0].ca`: means nothing for keys in a local file"),
        ("keys = \"k\"\nrefresh_seconds = 60", "`tenants.acme.issuers[0].refresh_seconds`: means nothing"),
        ("discovery = true\nca = \"\"", "`tenants.acme.issuers[0].ca`: empty"),
        ("discovery = true\nrefresh_seconds = 1", "`tenants.acme.issuers[0].refresh_seconds` is 1, and must be 10 to"),
        ("discovery = true\nstale_seconds = 60", "`tenants.acme.issuers[0].refresh_seconds`: 300 is more than"),
    ] {
        let text = with(keys).unwrap_err().to_string();
        assert!(text.starts_with(expected), "{text}\nis not\n{expected}");
    }
    let plain = ISSUER.replace("keys = \"jwks.json\"", "discovery = true").replace("https://idp", "http://idp");
    let text = load(&plain).unwrap_err().to_string();
    assert!(text.starts_with("`tenants.acme.issuers[0].issuer`: with `discovery`: neither `https`"), "{text}");
}

#[test]
fn subjects_are_read_in_one_way() {
    let subjects = "subjects = [\"person\", \"agent\"]";
    let with = |text: &str| load(&ISSUER.replace(subjects, text));
    for good in [
        "subject = { kind = \"service\" }",
        "subject = { kind = \"person\", claim = \"/a/b\", actors = \"agent\" }\nid_prefix = \"x:\"",
        "subject = { kind = \"agent\", starts_with = \"spiffe://prod.example.com/\" }\nrequired = { a = \"b\", c = 1, d = true }",
        "subjects = [\"person\"]\napproving = { audience = \"answers\", max_age_seconds = 60, amr = [\"hwk\"] }",
    ] {
        let config = with(good).unwrap();
        assert_eq!(load(&config.effective_toml().unwrap()).unwrap(), config, "{good}");
    }
    for (text, expected) in [
        ("", "`tenants.acme.issuers[0].subjects`: name at least one"),
        (
            "subjects = [\"agent\"]\nsubject = { kind = \"agent\" }",
            "`tenants.acme.issuers[0].subjects`: means nothing beside",
        ),
        ("subject = { kind = \"robot\" }", "unknown value `robot`"),
        ("subject = { kind = \"agent\", clam = \"x\" }", "unknown key `tenants.acme.issuers[0].subject.clam`"),
        ("subject = { kind = \"agent\", claim = \"\" }", "`tenants.acme.issuers[0].subject.claim`: not a claim"),
        (
            "subject = { kind = \"agent\" }\nrequired = { \"/\" = \"x\" }",
            "`tenants.acme.issuers[0].required`: not a claim",
        ),
        ("subject = { kind = \"agent\" }\nrequired = { x = [\"y\"] }", "expected a text, a whole number"),
        (
            "subjects = [\"person\"]\nid_prefix = \"x\"",
            "`tenants.acme.issuers[0].id_prefix`: means nothing for accounts",
        ),
        (
            "subjects = [\"person\"]\napproving = { audience = \"countersign\", max_age_seconds = 60, amr = [\"hwk\"] }",
            "`tenants.acme.issuers[0].approving.audience`: the audience of all other calls too",
        ),
        (
            "subjects = [\"person\"]\napproving = { audience = \"a\", max_age_seconds = 0, amr = [\"hwk\"] }",
            "`tenants.acme.issuers[0].approving.max_age_seconds` is 0, and must be 1 to 86400 seconds",
        ),
        (
            "subjects = [\"person\"]\napproving = { audience = \"a\", max_age_seconds = 60, amr = [] }",
            "`tenants.acme.issuers[0].approving.amr`: name at least one method",
        ),
    ] {
        let text = with(text).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}\nis not\n{expected}");
    }
}

#[test]
fn groups_and_owners_are_named_in_so_many_words() {
    let with = |text: &str| load(&ISSUER.replace("audience =", &format!("{text}\naudience =")));
    for good in [
        "groups = { claim = \"groups\", map = { \"a b\" = \"owners\", \"größe\" = \"owners\" } }",
        "groups = { claim = \"/realm_access/roles\", map = { x = \"y\" } }\nowner = { claim = \"owner\" }",
        "owner = { claim = \"actor_id\", issuer = \"https://github.com\" }",
    ] {
        let config = with(good).unwrap();
        assert_eq!(load(&config.effective_toml().unwrap()).unwrap(), config, "{good}");
    }
    let many: Vec<String> = (0..33).map(|n| format!("v{n} = \"g\"")).collect();
    let many = format!("groups = {{ claim = \"groups\", map = {{ {} }} }}", many.join(", "));
    for (text, expected) in [
        ("groups = { claim = \"groups\" }", "missing"),
        ("groups = { map = { x = \"y\" } }", "missing"),
        (
            "groups = { claim = \"groups\", prefix = \"x\", map = { x = \"y\" } }",
            "unknown key `tenants.acme.issuers[0].groups.prefix`",
        ),
        ("groups = { claim = \"\", map = { x = \"y\" } }", "`tenants.acme.issuers[0].groups.claim`: not a claim"),
        ("groups = { claim = \"groups\", map = {} }", "`tenants.acme.issuers[0].groups.map`: expected 1 to 32 values"),
        (&many, "`tenants.acme.issuers[0].groups.map`: expected 1 to 32 values"),
        (
            "groups = { claim = \"groups\", map = { \"x \" = \"y\" } }",
            "`tenants.acme.issuers[0].groups.map`: the value `x ` has",
        ),
        (
            "groups = { claim = \"groups\", map = { \"ａ\" = \"y\" } }",
            "`tenants.acme.issuers[0].groups.map`: the value `ａ` has",
        ),
        (
            "groups = { claim = \"groups\", map = { x = \"\" } }",
            "`tenants.acme.issuers[0].groups.map`: `` is not the id of a group",
        ),
        ("groups = { claim = \"groups\", map = { x = \"y\\u200b\" } }", "is not the id of a group"),
        ("groups = { claim = \"groups\", map = { x = [\"y\"] } }", "string"),
        ("owner = { }", "missing"),
        ("owner = { claim = \"/\" }", "`tenants.acme.issuers[0].owner.claim`: not a claim"),
        ("owner = { claim = \"owner\", issuer = \"a#b\" }", "`tenants.acme.issuers[0].owner.issuer`: an account is"),
        ("owner = { claim = \"owner\", issuer = \"\" }", "`tenants.acme.issuers[0].owner.issuer`: 1 to"),
        ("owner = { claim = \"owner\", person = \"x\" }", "unknown key `tenants.acme.issuers[0].owner.person`"),
    ] {
        let text = with(text).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}\nis not\n{expected}");
    }
    let people =
        ISSUER.replace("subjects = [\"person\", \"agent\"]", "subjects = [\"person\"]\nowner = { claim = \"owner\" }");
    let text = load(&people).unwrap_err().to_string();
    assert!(text.starts_with("`tenants.acme.issuers[0].owner`: means nothing for people"), "{text}");
}

#[test]
fn two_issuers_of_a_tenant_never_name_the_same_agent_or_service() {
    let other = |more: &str| {
        let issuer = "[[tenants.acme.issuers]]\nissuer = \"https://other.example.com\"\naudience = \"countersign\"\n\
                      algorithms = [\"EdDSA\"]\nkeys = \"k\"\n";
        load(&format!("{ISSUER}{issuer}{more}\n"))
    };
    for apart in [
        "subjects = [\"person\", \"service\"]",
        "subject = { kind = \"service\" }",
        "subject = { kind = \"person\", actors = \"service\" }",
    ] {
        assert!(other(apart).is_ok(), "{apart}");
    }
    for same in [
        "subjects = [\"agent\"]",
        "subject = { kind = \"agent\" }",
        "subject = { kind = \"person\", actors = \"agent\" }",
        // The first one may name any agent, these among them.
        "subjects = [\"agent\"]\nid_prefix = \"other:\"",
        "subject = { kind = \"agent\", starts_with = \"spiffe://prod.example.com/\" }",
    ] {
        let text = other(same).unwrap_err().to_string();
        assert!(
            text.starts_with("`tenants.acme.issuers[1].id_prefix`: `tenants.acme.issuers[0]` may name the same agents"),
            "{text}"
        );
    }
    let first = ISSUER.replace("audience =", "id_prefix = \"one:\"\naudience =");
    let second =
        "[[tenants.acme.issuers]]\nissuer = \"https://b\"\naudience = \"c\"\nalgorithms = [\"EdDSA\"]\nkeys = \"k\"\n";
    for (more, apart) in [
        ("subjects = [\"agent\"]\nid_prefix = \"two:\"", true),
        ("subject = { kind = \"agent\", starts_with = \"spiffe://b/\" }", true),
        ("subjects = [\"agent\"]\nid_prefix = \"one:more:\"", false),
        ("subjects = [\"agent\"]\nid_prefix = \"on\"", false),
        ("subjects = [\"agent\"]", false),
    ] {
        assert_eq!(load(&format!("{first}{second}{more}\n")).is_ok(), apart, "{more}");
    }
}

#[test]
fn a_trust_domain_is_complete_and_apart_or_refused() {
    let tls = "[server.tls]\ncertificate = \"c\"\nkey = \"k\"\n";
    let domain = "[[tenants.acme.trust_domains]]\nname = \"prod.example.com\"\nca = \"ca.pem\"\nkind = \"service\"\n";
    let good = format!("{tls}{ISSUER}{domain}");
    let config = load(&good).unwrap();
    assert_eq!(load(&config.effective_toml().unwrap()).unwrap(), config);
    for (from, to, expected) in [
        ("prod.example.com", "spiffe://prod", "`tenants.acme.trust_domains[0].name`: 1 to 255 of"),
        ("\"service\"", "\"person\"", "`tenants.acme.trust_domains[0].kind`: a certificate of a workload"),
        ("\"ca.pem\"", "\"\"", "`tenants.acme.trust_domains[0].ca`: empty"),
        (tls, "", "`tenants.acme.trust_domains[0]`: client certificates come over TLS only"),
        (
            "\"service\"",
            "\"agent\"",
            "`tenants.acme.trust_domains[0].id_prefix`: `tenants.acme.issuers[0]` may name the same",
        ),
    ] {
        let text = load(&good.replace(from, to)).unwrap_err().to_string();
        assert!(text.starts_with(expected), "{text}\nis not\n{expected}");
    }
    // The same workloads by JWT-SVIDs, which somebody says in so many words.
    let issuer = "[[tenants.acme.issuers]]\nissuer = \"https://spire\"\naudience = \"c\"\nalgorithms = [\"ES256\"]\nkeys = \"k\"\n";
    let jwt = |starts_with: &str| {
        load(&format!("{good}{issuer}subject = {{ kind = \"service\", starts_with = \"{starts_with}\" }}\n"))
    };
    assert!(jwt("spiffe://prod.example.com/").is_ok());
    for other in ["", "spiffe://", "spiffe://prod.example.com", "spiffe://prod.example.com/ns/"] {
        assert!(jwt(other).is_err(), "{other}");
    }
    // What only comes to look like its names says no such thing.
    let whole = "starts_with = \"spiffe://prod.example.com/\"";
    for (other, same) in [
        (format!("subject = {{ kind = \"service\", {whole} }}"), true),
        (format!("subject = {{ kind = \"service\", {whole}, actors = \"person\" }}"), true),
        (format!("subject = {{ kind = \"service\", {whole}, actors = \"service\" }}"), false),
        (format!("subject = {{ kind = \"service\", {whole}, claim = \"email\" }}"), false),
        ("subject = { kind = \"service\" }\nid_prefix = \"spiffe://prod.example.com/\"".to_owned(), false),
        ("subjects = [\"service\"]\nid_prefix = \"spiffe://prod.example.com/\"".to_owned(), false),
        (
            "subject = { kind = \"service\", starts_with = \"prod.example.com/\" }\nid_prefix = \"spiffe://\""
                .to_owned(),
            false,
        ),
        (
            "subject = { kind = \"person\", actors = \"service\" }\nid_prefix = \"spiffe://prod.example.com/\""
                .to_owned(),
            false,
        ),
    ] {
        let loaded = load(&format!("{good}{issuer}{other}\n"));
        assert_eq!(loaded.is_ok(), same, "{other}: {loaded:?}");
    }
    let text = load(&format!("{good}{domain}")).unwrap_err().to_string();
    assert!(
        text.starts_with("`tenants.acme.trust_domains[1].name`: `tenants.acme.trust_domains[0]` has the same"),
        "{text}"
    );
}
