// A JDK's own HttpClient, unmodified, against a running service. It offers HTTP/2 with each request in the clear, as LangChain4j,
// Spring AI and Ktor do with it. `java tests/clients/Trial.java BASE_URL`; see README.md.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

public class Trial {
    static final String RIGHT = "A large red circle in the centre.";
    static final HttpClient CLIENT = HttpClient.newHttpClient();
    static final String SHAPE = "{\"type\":\"object\",\"properties\":{\"colour\":{\"enum\":[\"red\",\"blue\"]}},\"required\":[\"colour\"]}";
    static String base;
    static int wrong;

    static HttpRequest request(String path, String body) {
        return HttpRequest.newBuilder(URI.create(base + path))
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
    }

    static String send(String path, String body) throws Exception {
        return CLIENT.send(request(path, body), HttpResponse.BodyHandlers.ofString()).body();
    }

    static void check(String name, boolean right, String got) {
        System.out.println((right ? "right  " : "wrong  ") + name + (right ? "" : "  " + got));
        wrong += right ? 0 : 1;
    }

    public static void main(String[] given) throws Exception {
        base = given[0].replaceAll("/$", "");
        Path picture = Path.of(given.length > 1 ? given[1] : "tests/clients/circle.png");
        String url = "data:image/png;base64," + Base64.getEncoder().encodeToString(Files.readAllBytes(picture));
        String turn = "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"" + url
            + "\"}},{\"type\":\"text\",\"text\":\"Describe the picture.\"}]}]";
        String ask = "{\"model\":\"qwen-vl\",\"temperature\":0,\"max_tokens\":200,\"messages\":" + turn;

        String chat = send("/v1/chat/completions", ask + "}");
        check("picture", chat.contains(RIGHT), chat);
        String stream = CLIENT.send(request("/v1/chat/completions", ask + ",\"stream\":true}"), HttpResponse.BodyHandlers.ofLines())
            .body().collect(Collectors.joining("\n"));
        check("stream", stream.contains("chat.completion.chunk") && stream.strip().endsWith("data: [DONE]"), stream);
        String format = ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"shape\",\"schema\":" + SHAPE + "}}}";
        String json = send("/v1/chat/completions", ask + format);
        check("structured", json.contains("{\\\"colour\\\":\\\""), json);
        String tools = ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"shape\",\"parameters\":" + SHAPE + "}}]"
            + ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"shape\"}}}";
        String call = send("/v1/chat/completions", ask + tools);
        check("tool by name", call.contains("\"tool_calls\"") && call.contains("{\\\"colour\\\":\\\""), call);
        String job = send("/v1/jobs", "{\"prompt\":\"Describe the picture.\",\"images\":[\"" + url + "\"]}");
        check("job", job.contains("\"job_"), job);
        var several = IntStream.range(0, 8)
            .mapToObj(n -> CLIENT.sendAsync(request("/v1/chat/completions", ask + "}"), HttpResponse.BodyHandlers.ofString()))
            .toList();
        CompletableFuture.allOf(several.toArray(CompletableFuture[]::new)).join();
        check("eight at a time", several.stream().allMatch(one -> one.join().body().contains(RIGHT)), "another answer");
        System.exit(wrong > 0 ? 1 : 0);
    }
}
