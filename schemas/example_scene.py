"""The image of the examples in the OpenAPI document: they work as given, without any other host.

It is the bundled scene (`inference_server/demo/scene.jpg`) at a quarter of its size: two red
circles, an orange ring, a yellow and a green cross, and a black square.
"""

EXAMPLE_SCENE = (
    "UklGRjQFAABXRUJQVlA4ICgFAADQIACdASqgAHgAPp1IoEqlpKMwqHVaShATiWQG+Ocz4Ek8TH+M1QHuf5e+zbaf7V"
    "v5R1+1Wc9+i/YA50HmA/Z/9sPdu9In+A9QD+uf6DrT/QQ6W/93/SqC9Wv0qtUj5Msvzgq9CGquCiZakLmwBVyJf1DH"
    "LBcdsg7aPuRx2mgZHYI/jorXy/NewDmm+TslnOEZubwbKyhYeTOzglk0C317edAYFZ6ReDitTrZepu2+tTueEbSL5G"
    "cLB5cld7WVIR42rPNKpLctlR9bvtl6eotVF/yP+SNXq4qQxgqxEue570eu73Ix3V3enEZRAdrly4PNJeVacVxH86GN"
    "m+BF6VBC2H6oFdeEc5GDwpHsARUAAP7onofpe8nWWY5Wlx40ofPPDoj1ZGtsVXW3VsWJM8sqHZJLZMF9vTzp2fNS/c"
    "ZbbJLWLSjXBEJ6l1bPhgCH7Kw8WXb4SdqV2NfEBPGyrO26643FdRYpfB3qjcYeSmZMmu0wYx07PMaoOd9kb/DJvKlQ"
    "1mq8Vdaz0U+HooVLNha9Ugcm6fQDGfBTiVhYbbG/F3UNCIcY6CkfE6RacXYpAUxbMk4QfMLJGQicB7hsQHZvySGgZB"
    "+jV6bv8N1IJ/C2rXbmfpzute9fVVoFDgD5G5p5m9ml1P7Aq6G3tooTcUxK6yts/OYQK8VmmmjxF5OSTV7A6+CV8NqH"
    "3kK+rpzlDfAvT4IoCJHIjlv90R/lHXwrTpjghrZNi8/XJmDmXqE8BUPjYV0b9gr78qMSEoBiePNPw/d4QVRFE1qTnl"
    "5BpQCt/UyVwl//1MDvBpFX8djLfFoR4JNGh4CNdHW9x4G/nekzmOEEz8PkjnWRL7pwxxTzg2h1m6aXCREW9yecm7gO"
    "nU+IrQT1VPURy8ATsrKKrGBpViNeE9VMnepKLpMsZzvdYqmYkevQ6R21vQvk5xs0mGhTOUbOZObjTQ7EVup+V1kZdo"
    "9kkzNweZ75LuxWPu8TaprVV2x6q3W4nECCyGWz0I5xTgsec7g0JvE0UZtiK40YKmCAecUbBTJMi2+QYuC8h69LFx54"
    "gOl/+eGuLDzHKQintDI61HjIMhFcxwVn5X6GwTWIzFfcuQ/hVCcyBz/pCD3sqFsGBsFR9elwjv4aJW2w0gwo34KQ61"
    "Ac6wU8X/rbrcjRs3/OoKJxWQRZ0RiV/kJy1kg2j799NlwYLQA86oxLBwKVbN5dyL1GJqyLy1citpHJpbiKWyYVYn1Q"
    "06UEnRi/NNe3IsEB8f3OrCw/NRyH1Aeg/Su2tjjzbFRU/TZuKkd22IqwTe/t+N2zeHupMoeQdxW8t44N0r+9yy6MgO"
    "hY+NxjY64zbhHpqxDNPEDPiQx9Y6cNwBjU0aofFtzNQIRaMbUUCyg2as+JaaHoEAAaRnz/em3JS+9GJxvRpqh9o6B1"
    "DhgW29vtCk7hY51K01TLCnUjFGgfeq1rv5KDsZR4DimBEmJpVitlmKInEP0gx5n7F+XSLY0Z+qpaUiDERP/JZ/zBcX"
    "c0s/Nxc2fyXy9j83BypRL6rO6ZUzaGtnAYCd5B1cwDdVRld4bqwR6hV5NhFmupqnODHly85zXi8mvYbQGpIqnJ5A1I"
    "bkX1im11WxQxwR1AjxhOEEiVbCgYQEZrjcH57pcH5Xk1N8AZV0J7MR0ZJ/GpVApWQG2u6LPcSI5u1PYtxSSfX8UTls"
    "X0IxZ2TSNrlLHkObtip51yc9QvjbxWpOkAS2z9MdexjYxR7JMEzkC9t98eaL7tcoqEr9MUwAAAAAA="
)
"""A WebP file of 160 x 120 pixels, base64-encoded."""
