// A foreign peer made of BouncyCastle: signs and verifies CMS, and is an EST client (RFC 7030).
//
//   sign KEY CHAIN OID CONTENT OUT     CMS SignedData (BER, as BouncyCastle writes it) over a file
//   verify ANCHOR SIGNED               verify signature and path; the content goes to standard output
//   enroll AUTHORITY KEY CHAIN SUBJECT LDEVIDKEY OUT ANCHOR   cacerts, csrattrs, simpleenroll; the certificate goes to OUT

import java.io.*;
import java.nio.file.*;
import java.security.*;
import java.security.cert.*;
import java.security.cert.Certificate;
import java.util.*;
import javax.net.ssl.*;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.asn1.x500.X500Name;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.jcajce.*;
import org.bouncycastle.cms.*;
import org.bouncycastle.cms.jcajce.*;
import org.bouncycastle.est.*;
import org.bouncycastle.est.jcajce.*;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.openssl.*;
import org.bouncycastle.openssl.jcajce.*;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.pkcs.PKCS10CertificationRequest;
import org.bouncycastle.pkcs.jcajce.JcaPKCS10CertificationRequestBuilder;
import org.bouncycastle.util.Store;

public class BouncyPeer {
    public static void main(String[] a) throws Exception {
        Security.addProvider(new BouncyCastleProvider());
        switch (a[0]) {
            case "sign" -> Files.write(Path.of(a[5]), sign(key(a[1]), chain(a[2]), a[3], Files.readAllBytes(Path.of(a[4]))));
            case "verify" -> System.out.write(verify(chain(a[1]), Files.readAllBytes(Path.of(a[2]))));
            case "enroll" -> Files.writeString(Path.of(a[6]), enroll(a[1], key(a[2]), chain(a[3]), a[4], Path.of(a[5]), chain(a[7])));
            default -> throw new IllegalArgumentException(a[0]);
        }
        System.out.flush();
    }

    static byte[] sign(PrivateKey key, List<X509Certificate> chain, String oid, byte[] content) throws Exception {
        CMSSignedDataGenerator generator = new CMSSignedDataGenerator();
        generator.addSignerInfoGenerator(new JcaSimpleSignerInfoGeneratorBuilder().setProvider("BC")
                .build(algorithm(key), key, chain.get(0)));
        generator.addCertificates(new JcaCertStore(chain));
        return generator.generate(new CMSProcessableByteArray(new ASN1ObjectIdentifier(oid), content), true).getEncoded();
    }

    static byte[] verify(List<X509Certificate> anchors, byte[] signed) throws Exception {
        CMSSignedData data = new CMSSignedData(signed);
        Store<X509CertificateHolder> along = data.getCertificates();
        for (SignerInformation signer : data.getSignerInfos().getSigners()) {
            @SuppressWarnings("unchecked")
            Collection<X509CertificateHolder> found = along.getMatches(signer.getSID());
            X509Certificate certificate = certificate(found.iterator().next());
            if (!signer.verify(new JcaSimpleSignerInfoVerifierBuilder().setProvider("BC").build(certificate))) {
                throw new SignatureException("the signature does not hold");
            }
            path(certificate, along, anchors);
        }
        return (byte[]) data.getSignedContent().getContent();
    }

    static void path(X509Certificate leaf, Store<X509CertificateHolder> along, List<X509Certificate> anchors) throws Exception {
        Set<TrustAnchor> trusted = new HashSet<>();
        for (X509Certificate anchor : anchors) trusted.add(new TrustAnchor(anchor, null));
        X509CertSelector target = new X509CertSelector();
        target.setCertificate(leaf);
        PKIXBuilderParameters parameters = new PKIXBuilderParameters(trusted, target);
        parameters.setRevocationEnabled(false);
        List<Certificate> pool = new ArrayList<>();
        for (X509CertificateHolder holder : along.getMatches(null)) pool.add(certificate(holder));
        parameters.addCertStore(CertStore.getInstance("Collection", new CollectionCertStoreParameters(pool)));
        CertPathBuilder.getInstance("PKIX", "BC").build(parameters);
    }

    static String enroll(String authority, PrivateKey key, List<X509Certificate> chain, String subject, Path keyFile,
            List<X509Certificate> anchors) throws Exception {
        // Whom to trust came by voucher (RFC 8995, 5.6.2).
        Set<TrustAnchor> trusted = new HashSet<>();
        for (X509Certificate anchor : anchors) trusted.add(new TrustAnchor(anchor, null));
        ESTService est = new JsseESTServiceBuilder(authority, JcaJceUtils.getCertPathTrustManager(trusted, null))
                .withKeyManagers(keyManagers(key, chain)).withHostNameAuthorizer(null).withTimeout(20000).build();
        int authorities = est.getCACerts().getCertificateStore().getMatches(null).size();
        CSRRequestResponse asked = est.getCSRAttributes();
        System.out.println("cacerts " + authorities + " csrattrs " + asked.hasAttributesResponse());
        KeyPairGenerator maker = KeyPairGenerator.getInstance("EC", "BC");
        maker.initialize(new java.security.spec.ECGenParameterSpec("P-256"), new SecureRandom());
        KeyPair pair = maker.generateKeyPair();
        try (JcaPEMWriter writer = new JcaPEMWriter(Files.newBufferedWriter(keyFile))) {
            writer.writeObject(new JcaPKCS8Generator(pair.getPrivate(), null));
        }
        PKCS10CertificationRequest request = new JcaPKCS10CertificationRequestBuilder(new X500Name(subject), pair.getPublic())
                .build(new JcaContentSignerBuilder("SHA256withECDSA").setProvider("BC").build(pair.getPrivate()));
        EnrollmentResponse response = est.simpleEnroll(false, request, null);
        StringWriter text = new StringWriter();
        try (JcaPEMWriter writer = new JcaPEMWriter(text)) {
            for (X509CertificateHolder holder : response.getStore().getMatches(null)) writer.writeObject(holder);
        }
        return text.toString();
    }

    static KeyManager[] keyManagers(PrivateKey key, List<X509Certificate> chain) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        store.setKeyEntry("device", key, new char[0], chain.toArray(new Certificate[0]));
        KeyManagerFactory factory = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        factory.init(store, new char[0]);
        return factory.getKeyManagers();
    }

    static String algorithm(PrivateKey key) {
        return switch (key.getAlgorithm()) {
            case "EC", "ECDSA" -> "SHA256withECDSA";
            case "RSA" -> "SHA256withRSA";
            default -> "Ed25519";
        };
    }

    static PrivateKey key(String path) throws Exception {
        try (PEMParser parser = new PEMParser(new FileReader(path))) {
            Object read = parser.readObject();
            PrivateKeyInfo info = read instanceof PEMKeyPair pair ? pair.getPrivateKeyInfo() : (PrivateKeyInfo) read;
            return new JcaPEMKeyConverter().setProvider("BC").getPrivateKey(info);
        }
    }

    static List<X509Certificate> chain(String path) throws Exception {
        List<X509Certificate> chain = new ArrayList<>();
        try (PEMParser parser = new PEMParser(new FileReader(path))) {
            for (Object read = parser.readObject(); read != null; read = parser.readObject()) {
                chain.add(certificate((X509CertificateHolder) read));
            }
        }
        return chain;
    }

    static X509Certificate certificate(X509CertificateHolder holder) throws CertificateException {
        return new JcaX509CertificateConverter().setProvider("BC").getCertificate(holder);
    }
}
