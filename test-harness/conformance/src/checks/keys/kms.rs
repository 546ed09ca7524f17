//! Wrapping by KMS: what it opens, what it refuses, and what the refusal says.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use sheen_keys::kms::{Environment, KmsKey};
use sheen_keys::{KekError, KeyEncryption, Secret};

use super::{CHECK, DEVICE, OTHER_DEVICE, SECRET};
use crate::checks::Context;
use crate::moto::{AccessKey, Moto, REGION};

/// An endpoint that refuses connections is given up after a few tries.
const GIVE_UP_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the part.
pub(super) fn run(context: &mut Context<'_>, moto: &Moto) {
    let report = &mut *context.report;
    report.case(CHECK, "kms: a key opens what it wrapped, by id, ARN and alias", || opens(moto));
    report.case(CHECK, "kms: another device's or a damaged key is refused", || binds(moto));
    report.case(CHECK, "kms: another key is refused and both are named", || other_key(moto));
    report.case(CHECK, "kms: a disabled key refuses until it is enabled", || disabled(moto));
    report.case(CHECK, "kms: a key that is to be deleted, or is not there, refuses", || gone(moto));
    report.case(CHECK, "kms: an endpoint that is away is named soon", || away(moto));
    report.case(CHECK, "kms: signatures hold, and rights are enough", || signatures(moto));
}

/// A key at an address, in an environment of one access key.
fn key(address: SocketAddr, name: &str, access: &AccessKey) -> anyhow::Result<KmsKey> {
    let environment = Environment::new(|variable| match variable {
        "AWS_ACCESS_KEY_ID" => Some(access.id.clone()),
        "AWS_SECRET_ACCESS_KEY" => Some(access.secret.clone()),
        "AWS_EC2_METADATA_DISABLED" => Some("true".into()),
        _ => None,
    });
    let parameters = format!("{name}?endpoint=http://{address}&region={REGION}");
    Ok(KmsKey::open(&parameters, environment)?)
}

fn anybody(moto: &Moto, name: &str) -> anyhow::Result<KmsKey> {
    let access = AccessKey { id: "AKIDANYBODY".into(), secret: "anything".into() };
    key(moto.address(), name, &access)
}

fn require_opens(key: &KmsKey, wrapped: &[u8]) -> anyhow::Result<()> {
    let opened = key.unwrap(&DEVICE, wrapped)?;
    ensure!(opened.expose() == SECRET, "{} opens something else", key.describe());
    Ok(())
}

fn secret() -> anyhow::Result<Secret> {
    Ok(Secret::copy_of(&SECRET)?)
}

/// Some operations of moto take nothing else.
pub(super) fn id_of(arn: &str) -> anyhow::Result<&str> {
    arn.rsplit('/').next().context("an ARN ends with the id")
}

fn opens(moto: &Moto) -> anyhow::Result<String> {
    let arn = moto.create_key()?;
    let id = id_of(&arn)?;
    moto.kms("CreateAlias", &json!({ "AliasName": "alias/opens", "TargetKeyId": id }))?;
    let mut longest = 0;
    for name in [id, &arn, "alias/opens"] {
        let wrapped = anybody(moto, name)?.wrap(&DEVICE, &secret()?)?;
        longest = longest.max(wrapped.len());
        let found = wrapped.windows(16).any(|window| *window == SECRET[..16]);
        ensure!(!found, "{name}: the secret stands in what was wrapped");
        for other in [id, &arn, "alias/opens"] {
            require_opens(&anybody(moto, other)?, &wrapped)?;
        }
    }
    Ok(format!("{longest} wrapped bytes"))
}

fn binds(moto: &Moto) -> anyhow::Result<String> {
    let key = anybody(moto, &moto.create_key()?)?;
    let wrapped = key.wrap(&DEVICE, &secret()?)?;
    let refused = key.unwrap(&OTHER_DEVICE, &wrapped);
    ensure!(matches!(refused, Err(KekError::WrongKey { .. })), "another device: {refused:?}");
    let mut damaged = wrapped.clone();
    *damaged.last_mut().context("bytes")? ^= 1;
    let refused = key.unwrap(&DEVICE, &damaged);
    ensure!(matches!(refused, Err(KekError::WrongKey { .. })), "a damaged one: {refused:?}");
    require_opens(&key, &wrapped)?;
    Ok(String::new())
}

fn other_key(moto: &Moto) -> anyhow::Result<String> {
    let (one, other) = (moto.create_key()?, moto.create_key()?);
    let wrapped = anybody(moto, &one)?.wrap(&DEVICE, &secret()?)?;
    let said = match anybody(moto, &other)?.unwrap(&DEVICE, &wrapped) {
        Err(error @ KekError::WrongKey { .. }) => error.to_string(),
        found => bail!("{found:?}"),
    };
    ensure!(said.contains(&one) && said.contains(&other), "{said}");
    // An alias that moved on is another key, too.
    moto.kms("CreateAlias", &json!({ "AliasName": "alias/moves", "TargetKeyId": one }))?;
    let moving = anybody(moto, "alias/moves")?;
    require_opens(&moving, &wrapped)?;
    moto.kms("UpdateAlias", &json!({ "AliasName": "alias/moves", "TargetKeyId": other }))?;
    let refused = moving.unwrap(&DEVICE, &wrapped);
    ensure!(matches!(refused, Err(KekError::WrongKey { .. })), "a moved alias: {refused:?}");
    Ok(String::new())
}

fn require_denied(key: &KmsKey, wrapped: &[u8], says: &str) -> anyhow::Result<()> {
    for outcome in [key.unwrap(&DEVICE, wrapped).map(drop), key.wrap(&DEVICE, &secret()?).map(drop)]
    {
        match outcome {
            Err(error @ KekError::Denied { .. }) => {
                ensure!(error.to_string().contains(says), "does not say `{says}`: {error}");
            }
            found => bail!("{found:?}"),
        }
    }
    Ok(())
}

fn disabled(moto: &Moto) -> anyhow::Result<String> {
    let arn = moto.create_key()?;
    let key = anybody(moto, &arn)?;
    let wrapped = key.wrap(&DEVICE, &secret()?)?;
    let id = json!({ "KeyId": id_of(&arn)? });
    moto.kms("DisableKey", &id)?;
    require_denied(&key, &wrapped, "disabled")?;
    moto.kms("EnableKey", &id)?;
    require_opens(&key, &wrapped)?;
    Ok(String::new())
}

fn gone(moto: &Moto) -> anyhow::Result<String> {
    let arn = moto.create_key()?;
    let key = anybody(moto, &arn)?;
    let wrapped = key.wrap(&DEVICE, &secret()?)?;
    moto.kms("ScheduleKeyDeletion", &json!({ "KeyId": id_of(&arn)?, "PendingWindowInDays": 7 }))?;
    require_denied(&key, &wrapped, "deletion")?;
    let absent = anybody(moto, "00000000-0000-0000-0000-000000000000")?;
    match absent.unwrap(&DEVICE, &wrapped) {
        Err(error @ KekError::Unreachable { .. }) => {
            ensure!(error.to_string().contains("NotFoundException"), "{error}");
            Ok(error.to_string())
        }
        found => bail!("{found:?}"),
    }
}

fn away(moto: &Moto) -> anyhow::Result<String> {
    let arn = moto.create_key()?;
    let wrapped = anybody(moto, &arn)?.wrap(&DEVICE, &secret()?)?;
    // Held until now, so nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let access = AccessKey { id: "AKIDANYBODY".into(), secret: "anything".into() };
    let begun = Instant::now();
    let refused = key(nobody, &arn, &access)?.unwrap(&DEVICE, &wrapped);
    let took = begun.elapsed();
    match refused {
        Err(error @ KekError::Unreachable { .. }) => {
            ensure!(error.to_string().contains(&nobody.to_string()), "{error}");
            ensure!(took < GIVE_UP_DEADLINE, "only after {} s", took.as_secs());
            Ok(format!("after {} ms: {error}", took.as_millis()))
        }
        found => bail!("{found:?}"),
    }
}

/// The policy of the manual for one key.
fn policy(actions: &Value, arn: &str) -> Value {
    json!({
        "Version": "2012-10-17",
        "Statement": [{ "Effect": "Allow", "Action": actions, "Resource": arn }],
    })
}

fn signatures(moto: &Moto) -> anyhow::Result<String> {
    let arn = moto.create_key()?;
    let all = json!(["kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"]);
    let whole = moto.create_user("whole", &policy(&all, "*"))?;
    let bare = moto.create_user("bare", &policy(&json!(["kms:Encrypt", "kms:Decrypt"]), "*"))?;
    let reader = moto.create_user("reader", &policy(&json!(["kms:DescribeKey"]), "*"))?;
    let wrong = AccessKey { secret: format!("{}x", whole.secret), ..whole.clone() };
    let unknown = AccessKey { id: "AKIAUNKNOWN".into(), secret: "x".into() };
    let attempts = || {
        let key_of = |access| key(moto.address(), &arn, access);
        let wrapped = key_of(&whole)?.wrap(&DEVICE, &secret()?)?;
        require_opens(&key_of(&whole)?, &wrapped)?;
        // The right to describe is a comfort.
        require_opens(&key_of(&bare)?, &wrapped)?;
        let mut said = String::new();
        for access in [&reader, &wrong, &unknown] {
            match key_of(access)?.unwrap(&DEVICE, &wrapped) {
                Err(error @ KekError::Denied { .. }) => said = error.to_string(),
                found => bail!("{}: {found:?}", access.id),
            }
            ensure!(!said.contains(&access.secret), "it says the secret: {said}");
        }
        Ok(said)
    };
    moto.check_signatures()?;
    let outcome = attempts();
    moto.believe_signatures()?;
    outcome
}
